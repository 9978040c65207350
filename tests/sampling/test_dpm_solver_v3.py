"""DPM-Solver-v3 against its program, and without statistics; statistics that do not fit."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from erk_bench import sample
from erk_bench.base.errors import UserError
from erk_bench.sampling.dpm_solver_v3 import ModelStatistics
from erk_bench.sampling.sample import sample_counted
from tests.conftest import golden, golden_facts
from tests.sampling.test_golden import mixture
from tests.sampling.test_solvers import exact_at, gaussian, noise

RUNS = {key: run for key, run in golden_facts("methods")["runs"].items() if key.startswith("dpm_v3.n")}


@cache
def published(degenerated: bool) -> ModelStatistics:
    parts = [golden("methods")[f"dpm_v3.ems.{name}"].numpy() for name in "lsb"]
    if degenerated:
        parts = [np.ones_like(parts[0]), np.zeros_like(parts[0]), np.zeros_like(parts[0])]
    return ModelStatistics.uniform(*parts)


def test_there_are_golden_runs() -> None:
    assert len(RUNS) == 32


@pytest.mark.parametrize("key", RUNS)
def test_published_end_points(key: str) -> None:
    """1e-5: the program's levels are float32 (measured 2e-6)."""
    run = RUNS[key]
    made = sample_counted(
        mixture("main"), golden("analytic_trajectories")["noise"], solver="dpm_solver_v3",
        sigmas=run["sigmas"], statistics=published(run["degenerated"]), max_order=run["order"],
        corrector=run["use_corrector"], pseudo=run["p_pseudo"], dtype=torch.float64,
    )  # fmt: skip
    assert (made.x - golden("methods")[key]).abs().max() <= 1e-5
    assert made.nfe == run["evaluations"]


def test_without_statistics_it_is_the_degenerate_solver() -> None:
    """On a fine grid the trapezoidal rule is exact enough; order 1 is DPM-Solver++'s."""
    ones = np.ones(6001)
    fine = ModelStatistics.uniform(ones, 0 * ones, 0 * ones)
    options = {"num_steps": 9, "dtype": torch.float64}
    for more in ({}, {"pseudo": True, "corrector_pseudo": True}, {"corrector": False}):
        plain = sample(mixture("main"), noise(), solver="dpm_solver_v3", **options, **more)
        given = sample(mixture("main"), noise(), solver="dpm_solver_v3", statistics=fine, **options, **more)
        assert torch.allclose(plain, given, rtol=1e-5, atol=1e-5)
    first = sample(mixture("main"), noise(), solver="dpm_solver_v3", max_order=1, **options)
    euler = sample(mixture("main"), noise(), solver="dpmpp", max_order=1, thresholding=False, **options)
    assert torch.allclose(first, euler, rtol=1e-10)


def exact_statistics() -> ModelStatistics:
    """Of `gaussian`, whose noise is sigma x / (sigma^2 + spread^2): with l = 0, f = sigma noise, f' = s f."""
    sigmas = np.exp(np.linspace(math.log(4.0), math.log(0.1), 4001))
    share = 0.7**2 / (sigmas**2 + 0.7**2)
    s = -2 * share - sigmas**2 / (sigmas**2 + 0.7**2)
    return ModelStatistics(sigmas, 0 * s, s, 0 * s)


def test_exact_statistics_leave_nothing_to_extrapolate() -> None:
    """Then g is constant, and one step of order 1 is exact."""
    end: Any = {"sigma_max": 4.0, "sigma_min": 0.1, "num_steps": 2, "dtype": torch.float64}
    exact = exact_at(noise() * 4.0, 4.0, 0.1)
    with_them = sample(gaussian, noise(), solver="dpm_solver_v3", statistics=exact_statistics(), **end)
    without = sample(gaussian, noise(), solver="dpm_solver_v3", **end)
    assert (with_them - exact).abs().max() < 1e-5 < (without - exact).abs().max()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ModelStatistics.uniform([1, 1], [0, 0], [0]), "expected l, s and b of one shape"),
        (lambda: ModelStatistics.uniform([1], [0], [0]), "two or more that fall"),
        (lambda: ModelStatistics(np.array([1.0, 2.0]), *[np.ones(2)] * 3), "two or more that fall"),
    ],
)
def test_statistics_of_other_shapes(make: Any, named: str) -> None:
    with pytest.raises(UserError, match=named):
        make()


def test_statistics_that_do_not_fit() -> None:
    ones = np.ones((5, 3, 4, 4))
    other = ModelStatistics.uniform(ones, ones, ones)
    with pytest.raises(
        UserError, match=r"statistics are of states \[3, 4, 4\], and the model's are \[2, 4, 4\]"
    ):
        sample(gaussian, noise(), solver="dpm_solver_v3", statistics=other, num_steps=5)
    with pytest.raises(
        UserError, match="measured from sigma 4 to 0.1, and the noise levels go from 80 to 0.002"
    ):
        sample(gaussian, noise(), solver="dpm_solver_v3", statistics=exact_statistics(), num_steps=5)
    with pytest.raises(UserError, match="solver.statistics is 3; .*it must be a ModelStatistics"):
        sample(gaussian, noise(), solver="dpm_solver_v3", statistics=3)
