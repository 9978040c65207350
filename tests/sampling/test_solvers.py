"""Every solver of the table: order, evaluation count, independence of samples."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from erk_bench import sample
from erk_bench.errors import UserError
from erk_bench.sampling.loop import CountedDenoiser
from erk_bench.sampling.sample import sample_counted
from erk_bench.sampling.schedules import SCHEDULES, sigmas
from erk_bench.sampling.solvers import SOLVERS

SPREAD = 0.7  # standard deviation of the Gaussian data


def gaussian(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    """Denoiser of zero-mean Gaussian data; its ODE has a closed form."""
    return x * SPREAD**2 / (SPREAD**2 + sigma**2)


def exact_end(x: Tensor, sigma_max: float) -> Tensor:
    """End point at sigma 0 of the trajectory through x at sigma_max."""
    return x * SPREAD / math.sqrt(SPREAD**2 + sigma_max**2)


def noise(batch: int = 3) -> Tensor:
    return torch.randn(batch, 2, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("name", SOLVERS)
def test_order(name: str) -> None:
    """Halving the step divides the global error by 2^order."""
    errors = []
    for num_steps in (64, 128, 256):
        x = sample(
            gaussian,
            noise(),
            solver=name,
            num_steps=num_steps,
            sigma_min=1e-4,
            sigma_max=4.0,
            dtype=torch.float64,
        )
        errors.append((x - exact_end(noise() * 4.0, 4.0)).abs().max().item())
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(order - SOLVERS[name].order) < 0.25 for order in orders), orders


@pytest.mark.parametrize(("name", "evaluations"), [("euler", 12), ("heun", 23)])
def test_evaluation_count(name: str, evaluations: int) -> None:
    counted = CountedDenoiser(gaussian)
    result = sample_counted(counted, noise(), solver=name, num_steps=12)
    assert result.nfe == counted.num_calls == evaluations
    assert result.nfe_guide == 0


def test_every_solver_has_its_count_checked() -> None:
    assert set(SOLVERS) == {"euler", "heun"}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("w_stiff", [0.0, 0.8])
def test_samples_of_a_batch_are_independent(name: str, w_stiff: float) -> None:
    """A sample alone equals the same sample in a batch, bitwise in float64."""
    if w_stiff and not SOLVERS[name].paired:
        with pytest.raises(UserError, match="no embedded pair"):
            sample(gaussian, noise(), solver=name, w_stiff=w_stiff)
        return
    options = {"solver": name, "num_steps": 9, "w_stiff": w_stiff, "dtype": torch.float64}
    together = sample(gaussian, noise(), **options)
    alone = torch.cat([sample(gaussian, one, **options) for one in noise().split(1)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_ends_and_order(name: str) -> None:
    levels = sigmas(SCHEDULES[name], 18, 0.002, 80.0, 7.0, torch.float64)
    assert len(levels) == 19
    assert levels[0] == pytest.approx(80.0, rel=1e-12)
    assert levels[-2] == pytest.approx(0.002, rel=1e-12)
    assert levels[-1] == 0
    assert all(a > b for a, b in pairwise(levels))


def test_polynomial_is_computed_in_the_state_dtype() -> None:
    """In float32 the first sigma is 79.99998, as in the published programs."""
    assert sigmas(SCHEDULES["polynomial"], 8, 0.002, 80.0, 7.0, torch.float32)[0] == pytest.approx(
        79.99998, abs=5e-6
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((1, 0.002, 80.0, 7.0), "num_steps is 1"),
        ((8, 0.0, 80.0, 7.0), "sigma_min 0.0"),
        ((8, 2.0, 1.0, 7.0), "sigma_max 1.0"),
        ((8, 0.002, 80.0, -1.0), "rho is -1.0"),
    ],
)
def test_bad_schedules(arguments: tuple[int, float, float, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        sigmas(SCHEDULES["polynomial"], *arguments, torch.float64)
