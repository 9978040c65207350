"""GITS: costs and choices of the published program; a path that is cheapest; batches."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.sampling.gits import METRICS, gits_choice, gits_cost, gits_levels, mean_cost
from erk_bench.sampling.sample import equation_from
from tests.conftest import golden, golden_facts
from tests.sampling.test_golden import mixture
from tests.sampling.test_solvers import gaussian, noise

RUNS = {key: run for key, run in golden_facts("methods")["runs"].items() if key.startswith("gits.")}


def test_there_are_golden_runs() -> None:
    assert len(RUNS) == 36


@pytest.mark.parametrize("key", RUNS)
def test_published_choices(key: str) -> None:
    found = re.fullmatch(r"gits\.tea(\d+)\.(\w+)\.coeff([\d.]+)\.n(\d+)", key)
    assert found
    levels = gits_levels(
        mixture("main"), golden("analytic_trajectories")["noise"], num_levels=int(found[4]),
        teacher=int(found[1]), metric=found[2], coeff=float(found[3]), dtype=torch.float32,
    )  # fmt: skip
    assert levels == pytest.approx(RUNS[key]["sigmas"], rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_published_costs(metric: str) -> None:
    """1e-5 of the largest: float32."""
    equation = equation_from(solver="euler", num_steps=21, dtype=torch.float64)
    start = golden("analytic_trajectories")["noise"]
    cost = gits_cost(equation, mixture("main"), start, metric=metric)
    expected = golden("methods")[f"gits.tea21.{metric}.cost"].numpy()
    assert np.abs(cost - expected).max() <= 1e-5 * np.abs(expected).max()
    parts = [(gits_cost(equation, mixture("main"), one, metric=metric), len(one)) for one in start.split(3)]
    assert np.allclose(mean_cost(parts), cost, rtol=1e-12)


@pytest.mark.parametrize("coeff", [1.0, 1.3])
def test_the_path_is_the_cheapest(coeff: float) -> None:
    """Of all that there are."""
    cost = np.random.default_rng(1).normal(size=(8, 8))

    def total(path: tuple[int, ...]) -> float:
        return sum(coeff**k * float(cost[j, i]) for k, (j, i) in enumerate(itertools.pairwise(path)))

    for num_levels in range(2, 9):
        paths = [(0, *middle, 7) for middle in itertools.combinations(range(1, 7), num_levels - 2)]
        assert tuple(gits_choice(cost, num_levels, coeff)) == min(paths, key=total)


def test_guidance_moves_the_levels() -> None:
    options = {"num_levels": 6, "teacher": 31}
    start = golden("analytic_trajectories")["noise"]
    plain = gits_levels(mixture("main"), start, **options)
    guided = gits_levels(mixture("main"), start, guide=mixture("guide"), guidance=3.0, **options)
    assert plain != guided and plain[0] == guided[0] and plain[-1] == guided[-1]


def test_straight_trajectories_cost_nothing() -> None:
    equation = equation_from(solver="euler", num_steps=9, dtype=torch.float64)
    for metric in METRICS:
        cost = gits_cost(equation, lambda x, sigma, labels: x * 0, noise(), metric=metric)
        assert np.abs(cost).max() < 1e-10


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_levels": 1}, "1 noise levels cannot be picked from a teacher of 61; take 2 to as many"),
        ({"num_levels": 9, "teacher": 8}, "9 noise levels cannot be picked from a teacher of 8"),
        ({"num_levels": 4, "metric": "l3"}, "unknown metric 'l3'; did you mean 'l1'|unknown metric 'l3'"),
    ],
)
def test_bad_numbers(options: dict[str, int], named: str) -> None:
    with pytest.raises(UserError, match=named):
        gits_levels(gaussian, noise(), **options)
