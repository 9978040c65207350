"""RX: the published program's end points, its order, its neutral setting and what it costs."""

from __future__ import annotations

import math

import pytest
import torch

from erk_bench import sample
from erk_bench.sampling.sample import sample_counted
from tests.conftest import golden, golden_facts
from tests.sampling.test_golden import mixture
from tests.sampling.test_solvers import exact_at, gaussian, noise

RUNS = {key: run for key, run in golden_facts("methods")["runs"].items() if key.startswith("rx_euler.")}


def test_there_are_golden_runs() -> None:
    assert len(RUNS) == 28


@pytest.mark.parametrize("key", RUNS)
def test_published_end_points(key: str) -> None:
    """1e-5: the program solves for its weights in float32. Its slip only moves longer last blocks."""
    run = RUNS[key]
    options = {"num_steps": run["num_steps"], "block": run["frequency"], "skip_last": run["skip_last"]}

    def end(**more: bool) -> torch.Tensor:
        start = golden("analytic_trajectories")["noise"]
        return sample(mixture("main"), start, solver="rx", dtype=torch.float64, **options, **more)

    as_published = end(published=True)
    assert (as_published - golden("methods")[key]).abs().max() <= 1e-5
    longer = not run["skip_last"] and run["num_steps"] % run["frequency"] > 0
    assert torch.equal(end(), as_published) != longer


@pytest.mark.parametrize(("base", "block", "order"), [("euler", 2, 2), ("euler", 3, 2), ("heun", 2, 3)])
@pytest.mark.parametrize("skip_last", [True, False])
def test_extrapolation_gains_an_order(base: str, block: int, order: int, skip_last: bool) -> None:
    """160 and 322 steps: blocks of 3 leave one step over."""
    errors = []
    for num_steps in (161, 323):
        x = sample(
            gaussian, noise(), solver="rx", num_steps=num_steps, sigma_min=0.1, sigma_max=4.0,
            schedule="polynomial", denoise_to_zero=False, dtype=torch.float64, base=base, block=block,
            skip_last=skip_last,
        )  # fmt: skip
        errors.append((x - exact_at(noise() * 4.0, 4.0, 0.1)).abs().max().item())
    assert math.log2(errors[0] / errors[1]) > order - 0.3


@pytest.mark.parametrize("base", ["euler", "heun"])
def test_a_block_of_one_step_is_the_base_solver(base: str) -> None:
    options = {"num_steps": 7, "dtype": torch.float64}
    plain = sample(gaussian, noise(), solver=base, **options)
    assert torch.equal(sample(gaussian, noise(), solver="rx", base=base, block=1, **options), plain)


def test_heun_costs_one_more_evaluation_a_block() -> None:
    """7 levels and zero: three Heun blocks of two steps at 5 evaluations, then the step to zero."""
    assert sample_counted(gaussian, noise(), solver="rx", base="heun", num_steps=7).nfe == 16
    assert sample_counted(gaussian, noise(), solver="rx", num_steps=7).nfe == 7


def test_fewer_steps_than_a_block_are_plain() -> None:
    options = {"num_steps": 3, "dtype": torch.float64}
    plain = sample(gaussian, noise(), solver="euler", **options)
    for skip_last in (True, False):
        found = sample(gaussian, noise(), solver="rx", block=8, skip_last=skip_last, **options)
        assert torch.equal(found, plain)
