"""SDM's noise levels: the published program's numbers, its rules where they act, resampling."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.sampling.loop import CountedDenoiser
from erk_bench.sampling.sample import equation_from, sample
from erk_bench.sampling.sdm_levels import Tolerance, resampled, sdm_levels, sdm_path
from tests.conftest import golden, golden_facts
from tests.sampling.test_golden import mixture
from tests.sampling.test_solvers import gaussian, noise

RUNS = golden_facts("methods")["runs"]
PATHS = [key.removesuffix(".sigmas") for key in RUNS if re.fullmatch(r"sdm_schedule\..*\.sigmas", key)]
SETTINGS = r"sdm_schedule\.n(\d+)\.eta([\d.]+)_([\d.]+)\.p([\d.]+)\.(\w+)\.snap([01])"


def test_there_are_golden_runs() -> None:
    assert len(PATHS) == 3


@pytest.mark.parametrize("key", PATHS)
def test_published_numbers(key: str) -> None:
    """1e-6: its norms are float32."""
    found = re.fullmatch(SETTINGS, key)
    assert found
    counted = CountedDenoiser(mixture("main"))
    equation = equation_from(solver=found[5], num_steps=int(found[1]), dtype=torch.float64)
    tolerance = Tolerance(*map(float, found.groups()[1:4]))
    start = golden("analytic_trajectories")["noise"]
    path = sdm_path(equation, counted, start, tolerance=tolerance, snap=found[6] == "1")
    data = golden("methods")
    assert [*path.levels, 0.0] == pytest.approx(data[f"{key}.sigmas"].tolist(), rel=1e-6)
    assert [*path.bounds, 0.0] == pytest.approx(data[f"{key}.eta_log"].tolist(), rel=1e-6)
    assert (path.end - data[f"{key}.end"]).abs().max() <= 1e-6
    of_bounds = (2 if found[5] == "euler" else 3) * len(path.bounds)
    assert counted.num_calls == RUNS[f"{key}.sigmas"]["evaluations"] + of_bounds
    for name in data:
        again = re.fullmatch(rf"{re.escape(key)}\.resampled(\d+)\.q([\d.]+)", name)
        if again:
            levels = resampled(path.levels, path.bounds, int(again[1]), float(again[2]))
            assert [*levels, 0.0] == pytest.approx(data[name].tolist(), rel=1e-6)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_smaller_tolerance_takes_more_steps(solver: str) -> None:
    counts = []
    for eta in (1e-1, 1e-3):
        equation = equation_from(solver=solver, num_steps=20, sigma_max=5.0, dtype=torch.float64)
        path = sdm_path(equation, gaussian, noise(), tolerance=Tolerance(eta, eta), snap=False)
        assert (path.levels[0], path.levels[-1]) == (equation.levels[0], equation.levels[-1])
        assert all(a > b for a, b in zip(path.levels, path.levels[1:], strict=False))
        counts.append(len(path.levels))
    assert counts[0] < counts[1]


def test_snapped_levels_lie_on_the_grid() -> None:
    equation = equation_from(solver="euler", num_steps=20, sigma_max=5.0, dtype=torch.float64)
    path = sdm_path(equation, gaussian, noise(), tolerance=Tolerance(1e-2, 1e-2))
    assert set(path.levels) < set(equation.levels) and len(path.levels) > 2


def test_resampling_puts_levels_where_the_length_is() -> None:
    """A long middle step gets most of the levels; q moves them to low noise; ends stay."""
    even = resampled([8.0, 4.0, 2.0, 1.0], [1.0, 1.0, 1.0], 31, q=0.0)
    middle = resampled([8.0, 4.0, 2.0, 1.0], [1.0, 100.0, 1.0], 31, q=0.0)
    low = resampled([8.0, 4.0, 2.0, 1.0], [1.0, 1.0, 1.0], 31, q=2.0)

    def share(levels: list[float], high: float, under: float) -> float:
        return float(np.mean([under <= level <= high for level in levels]))

    assert share(middle, 4, 2) > 0.8 > 0.4 > share(even, 4, 2)
    assert share(low, 2, 1) > share(even, 2, 1)
    assert {(levels[0], levels[-1]) for levels in (even, middle, low)} == {(8.0, 1.0)}


def test_levels_are_what_sample_takes() -> None:
    levels = sdm_levels(mixture("main"), noise(), num_levels=6, grid=12, sigma_max=5.0, eta_max=0.02)
    assert len(levels) == 6
    assert torch.isfinite(sample(mixture("main"), noise(), solver="euler", sigmas=levels)).all()


@pytest.mark.parametrize("bounds", [[0.0, 1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_bounds_that_tell_nothing(bounds: list[float]) -> None:
    with pytest.raises(UserError, match="do not change along the trajectories, or are not finite"):
        resampled([4.0, 2.0, 1.0], bounds, 5)


def test_too_few_levels() -> None:
    with pytest.raises(UserError, match="num_levels is 1"):
        resampled([2.0, 1.0], [1.0], 1)
