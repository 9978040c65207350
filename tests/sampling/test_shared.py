"""Every cell of a shared grid equals its own run, for fewer evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import erk_bench
from erk_bench.base.errors import UserError
from erk_bench.sampling.corrections import erk_guid
from erk_bench.sampling.loop import Run, integrate
from erk_bench.sampling.sample import sample_counted
from erk_bench.sampling.schedules import polynomial, sigmas
from erk_bench.sampling.shared import Strength, integrate_grid, sample_grid
from erk_bench.sampling.solvers import heun_step
from tests.conftest import golden_net

CELLS = [Strength(w_stiff, w_con) for w_stiff in (0.0, 0.5, 1.0) for w_con in (0.0, 0.1, 0.5, 1.4)]
# The grid on which sharing was first measured: 48 cells.
PROTOTYPE = [
    Strength(w_stiff, w_con)
    for w_stiff in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)
    for w_con in (0.0, 0.1, 0.3, 0.5, 1.0, 2.0)
]


def levels(num_steps: int, dtype: torch.dtype) -> Sequence[float]:
    return sigmas(polynomial, num_steps, 0.002, 80.0, 7.0, dtype)


def smooth(x: Tensor, sigma: float | Tensor, labels: Tensor | None) -> Tensor:
    """A denoiser in closed form whose rows cannot depend on each other: two Gaussians of different width."""
    wide, narrow = x / (1 + sigma**2), x * 0.01 / (0.01 + sigma**2)
    return torch.where(x > 0, wide, narrow)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("limit", [1, 7, 256])
def test_each_cell_is_its_own_run_bit_for_bit(dtype: torch.dtype, limit: int) -> None:
    generator = torch.Generator().manual_seed(3)
    run = Run(heun_step, 1, levels(8, dtype))
    x = torch.randn(5, 2, 4, 4, generator=generator, dtype=dtype) * run.levels[0]
    states, index = integrate_grid(smooth, x, run, None, CELLS, limit)
    for cell, rows in zip(CELLS, index, strict=True):
        alone = integrate(smooth, x, run, None, erk_guid(*cell))
        assert torch.equal(states[rows], alone), cell
    assert len({tuple(state.flatten().tolist()) for state in states[index]}) > 3  # the cells do differ


@pytest.mark.parametrize("guidance", [1.0, 1.4])
def test_on_a_network_with_labels_and_guidance(guidance: float) -> None:
    """To the rounding of the network, which depends on the batch; gates must not flip for that."""
    net, guide = golden_net("c"), golden_net("d")
    noise, labels = erk_bench.draw(range(2), net)
    options = {"num_steps": 5, "dtype": torch.float64, "guide": guide, "guidance": guidance}
    found = erk_bench.sample_grid(net, noise, labels, cells=CELLS[2:8], **options)
    for (w_stiff, w_con), x in zip(CELLS[2:8], found.x, strict=True):
        alone = sample_counted(net, noise, labels, w_stiff=w_stiff, w_con=w_con, **options)
        assert (x - alone.x).abs().max() <= 1e-5 * alone.x.abs().max(), (w_stiff, w_con)
        assert (found.nfe, found.nfe_guide) == (alone.nfe, alone.nfe_guide)
    assert found.separate == 9 * (1 + (guidance != 1)) * len(CELLS[2:8]) * 2
    assert found.evaluations < found.separate


@pytest.mark.parametrize(
    ("num_steps", "share"), [(6, 0.27), (8, 0.32), pytest.param(16, 0.48, marks=pytest.mark.slow)]
)
def test_share_of_separate_evaluations_on_digits(num_steps: int, share: float) -> None:
    """48 cells on the shipped network; counted 0.261, 0.306 and 0.471 when this was written."""
    net = erk_bench.load_denoiser("digits")
    noise, labels = erk_bench.draw(range(8), net)
    rows = 0

    def counted(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        nonlocal rows
        rows += len(x)
        assert labels is not None and len(labels) == len(x) <= 64
        return net(x, sigma, labels)

    found = sample_grid(counted, noise, labels, cells=PROTOTYPE, num_steps=num_steps, branch_limit=64)
    assert rows == found.evaluations <= share * found.separate
    assert found.separate == (2 * num_steps - 1) * 48 * 8


def test_cells_that_never_open_cost_nothing() -> None:
    noise = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    shut = [Strength(w_stiff, 1e9) for w_stiff in (0.5, 1.0, 2.0)]
    found = sample_grid(lambda x, sigma, labels: x * 0.5, noise, cells=shut, num_steps=6)
    assert found.evaluations == 11 * 3 and found.separate == 3 * found.evaluations
    assert len(found.states) == 3 and torch.equal(found.x[0], found.x[2])


def test_what_cannot_be_searched_is_told() -> None:
    noise = torch.ones(1, 1, 2, 2)

    def refused(message: str, **options: Any) -> None:
        with pytest.raises(UserError, match=message):
            sample_grid(lambda x, sigma, labels: x, noise, **{"cells": CELLS, **options})

    refused("has no cells", cells=[])
    refused("no embedded pair", solver="euler")
    refused("branch_limit is 0", branch_limit=0)
    refused("unknown solver 'huen'", solver="huen")
    refused("there is no guide", guidance=1.5)
    momentum = {"guide": lambda x, sigma, labels: x, "guidance_method": "apg"}
    refused(
        "momentum, churn and corrections without a gate belong to one trajectory",
        guidance=1.5,
        guidance_options={"momentum": -0.5},
        **momentum,
    )
