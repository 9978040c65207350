"""Every cell of a shared grid equals its own run, for fewer evaluations."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import erk_bench
from erk_bench.errors import UserError
from erk_bench.sampling.grid import Cell, integrate_grid
from erk_bench.sampling.guidance import erk_guid, guided
from erk_bench.sampling.loop import CountedDenoiser, integrate
from erk_bench.sampling.schedules import SCHEDULES, sigmas
from erk_bench.sampling.solvers import SOLVERS
from tests.conftest import golden_net

HEUN = SOLVERS["heun"]
CELLS = [Cell(w_stiff, w_con) for w_stiff in (0.0, 0.5, 1.0) for w_con in (0.0, 0.1, 0.5, 1.4)]
# The grid on which sharing was first measured: 48 cells.
PROTOTYPE = [
    Cell(w_stiff, w_con)
    for w_stiff in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)
    for w_con in (0.0, 0.1, 0.3, 0.5, 1.0, 2.0)
]


def levels(num_steps: int, dtype: torch.dtype) -> Sequence[float]:
    return sigmas(SCHEDULES["polynomial"], num_steps, 0.002, 80.0, 7.0, dtype)


def smooth(x: Tensor, sigma: float, labels: Tensor | None) -> Tensor:
    """A denoiser in closed form whose rows cannot depend on each other: two Gaussians of different width."""
    wide, narrow = x / (1 + sigma**2), x * 0.01 / (0.01 + sigma**2)
    return torch.where(x > 0, wide, narrow)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("limit", [1, 7, 256])
def test_each_cell_is_its_own_run_bit_for_bit(dtype: torch.dtype, limit: int) -> None:
    generator = torch.Generator().manual_seed(3)
    sigma = levels(8, dtype)
    x = torch.randn(5, 2, 4, 4, generator=generator, dtype=dtype) * sigma[0]
    found = integrate_grid(smooth, x, sigma, None, HEUN, CELLS, branch_limit=limit)
    for index, cell in enumerate(CELLS):
        alone = integrate(smooth, x, sigma, None, HEUN, erk_guid(*cell))
        assert torch.equal(found.x[index], alone), cell
    assert len({tuple(state.flatten().tolist()) for state in found.x}) > 3  # the cells do differ
    assert found.separate == 15 * len(CELLS) * 5


@pytest.mark.parametrize("guidance", [1.0, 1.4])
def test_on_a_network_with_labels_and_guidance(guidance: float) -> None:
    """To the rounding of the network, which depends on the batch; gates must not flip for that."""
    noise, labels = erk_bench.draw(range(2), golden_net("c"))
    sigma = levels(5, torch.float64)
    x = noise.double() * sigma[0]
    main, guide = CountedDenoiser(golden_net("c")), CountedDenoiser(golden_net("d"))
    with torch.inference_mode():
        denoiser = guided(main, guide, guidance)
        found = integrate_grid(denoiser, x, sigma, labels, HEUN, CELLS[2:8])
        for index, cell in enumerate(CELLS[2:8]):
            alone = integrate(denoiser, x, sigma, labels, HEUN, erk_guid(*cell))
            assert (found.x[index] - alone).abs().max() <= 1e-5 * alone.abs().max(), cell
    assert found.evaluations < found.separate


@pytest.mark.parametrize(
    ("num_steps", "share"), [(6, 0.27), (8, 0.32), pytest.param(16, 0.48, marks=pytest.mark.slow)]
)
def test_share_of_separate_evaluations_on_digits(num_steps: int, share: float) -> None:
    """48 cells on the shipped network; counted 0.261, 0.306 and 0.471 when this was written."""
    noise, labels = erk_bench.draw(range(8), erk_bench.load_denoiser("digits"))
    sigma = levels(num_steps, torch.float32)
    rows = 0

    def counted(x: Tensor, sigma: float, labels: Tensor | None) -> Tensor:
        nonlocal rows
        rows += len(x)
        assert labels is not None and len(labels) == len(x) <= 64
        return net(x, torch.tensor(sigma), labels)

    net = erk_bench.load_denoiser("digits")
    with torch.inference_mode():
        found = integrate_grid(counted, noise * sigma[0], sigma, labels, HEUN, PROTOTYPE, branch_limit=64)
    assert rows == found.evaluations <= share * found.separate
    assert found.separate == (2 * num_steps - 1) * 48 * 8


def test_cells_that_never_open_cost_nothing() -> None:
    x = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(1)) * 80
    sigma = levels(6, torch.float32)
    shut = [Cell(w_stiff, 1e9) for w_stiff in (0.5, 1.0, 2.0)]
    found = integrate_grid(smooth, x, sigma, None, HEUN, shut)
    assert found.evaluations == 11 * 3 and found.separate == 3 * found.evaluations
    assert torch.equal(found.x[0], found.x[2])


def test_what_cannot_be_searched_is_told() -> None:
    x = torch.ones(1, 1, 2, 2)
    with pytest.raises(UserError, match="has no cells"):
        integrate_grid(smooth, x, [1.0, 0.0], None, HEUN, [])
    with pytest.raises(UserError, match="no embedded pair"):
        integrate_grid(smooth, x, [1.0, 0.0], None, SOLVERS["euler"], CELLS)
    with pytest.raises(UserError, match="branch_limit is 0"):
        integrate_grid(smooth, x, [1.0, 0.0], None, HEUN, CELLS, branch_limit=0)
