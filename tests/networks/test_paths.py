"""The ways between a model's own (x_t, t) and (x, sigma): exact, and inverses of each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from erk_bench.networks.paths import DiscretePath, LinearPath, ddpm_sigmas

PATHS = [
    LinearPath(), LinearPath(data_time=0), LinearPath("data", noise_scale=2.0), DiscretePath(ddpm_sigmas())
]  # fmt: skip
SIGMAS = [0.011, 0.05, 0.5, 2.0, 80.0, 150.0]


def normal(seed: int) -> Tensor:
    return torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("path", PATHS)
def test_there_and_back(path: LinearPath | DiscretePath, sigma: float) -> None:
    x = normal(0) + sigma * normal(1)
    for level in (sigma, torch.full((2, 1, 1, 1), sigma, dtype=torch.float64)):
        there = path.to_native(x, level)
        back = path.from_native(there.x, there.at)
        assert (back.x - x).abs().max() < 1e-12 * x.abs().max()
        assert abs(torch.as_tensor(back.at, dtype=torch.float64).max().item() / sigma - 1) < 1e-12


@pytest.mark.parametrize("sigma", SIGMAS)
def test_an_output_that_knows_the_data_denoises_exactly(sigma: float) -> None:
    """v is dx_t/dt along x_t = (1 - u) data + u noise; eps is the noise."""
    data, noise = normal(0), normal(1)
    x = data + sigma * noise
    outputs = [data - noise, noise - data, data, noise]
    for path, output in zip(PATHS, outputs, strict=True):
        assert (path.denoised(x, sigma, output) - data).abs().max() < 1e-12


def test_the_linear_path_is_the_formula() -> None:
    data, noise, share = normal(0), normal(1), 0.3
    for path in PATHS[:3]:
        assert isinstance(path, LinearPath)
        x_t = (1 - share) * data + share * path.noise_scale * noise
        point = path.from_native(x_t, path.time_of(share))
        assert (point.x - (data + point.at * noise)).abs().max() < 1e-12
        t = path.to_native(point.x, point.at).at
        assert abs(t - (1 - share if path.data_time else share)) < 1e-12


def test_slopes_lead_from_data_to_noise() -> None:
    data, noise = normal(0), normal(1)
    x_t = 0.7 * data + 0.3 * noise
    for path, output in ((PATHS[0], data - noise), (PATHS[1], noise - data), (LinearPath("data"), data)):
        assert isinstance(path, LinearPath)
        assert (path.slope(x_t, 0.3, output) - (noise - data)).abs().max() < 1e-12
    clamped = LinearPath("data", least_share=0.05)
    for share in (0.02, torch.tensor(0.02, dtype=torch.float64)):
        assert torch.equal(clamped.slope(x_t, share, data), (x_t - data) / 0.05)


def test_discrete_levels_are_those_of_ddpm() -> None:
    levels = ddpm_sigmas()
    assert len(levels) == 1000 and levels.dtype == torch.float64
    for number, sigma in ((0, 0.010000500037502575), (500, 3.4429671125258228), (999, 157.40728081040757)):
        assert abs(levels[number].item() / sigma - 1) < 1e-12


def test_times_of_levels_are_whole() -> None:
    """Of levels rounded to float32 too; between two they are fractions, beyond all of them the last."""
    path = DiscretePath(ddpm_sigmas())
    x = torch.zeros(1000, 1, 1, 1)
    for levels in (ddpm_sigmas(), ddpm_sigmas().float()):
        assert torch.equal(path.to_native(x, levels).at, torch.arange(1000.0, dtype=torch.float64))
    between = (ddpm_sigmas()[312] * ddpm_sigmas()[313]) ** 0.5
    assert abs(path.to_native(x, between).at - 312.5) < 1e-9
    assert path.to_native(x, 1e-3).at == 0 and path.to_native(x, 1e4).at == 999
