"""What the paper's analysis claims, measured: 160 trajectories, 32 steps, float64."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from erk_bench.sampling.corrections import CORRECTIONS, Correct, Corrected, erk_guid, no_correction
from erk_bench.sampling.loop import Run, integrate
from erk_bench.sampling.solvers import heun_step
from erk_bench.sampling.steps import Step
from erk_bench.studies.analysis.measure import (
    SIGMA_MAX,
    MeasuredSteps,
    cosine,
    eigenpairs,
    end_points,
    exact_step,
    levels,
    measure,
)
from erk_bench.studies.analysis.mixture import tree

COUNT = 160


@functools.cache
def start() -> Tensor:
    return tree("A").sample(COUNT, SIGMA_MAX, torch.Generator().manual_seed(0))


@functools.cache
def measured() -> MeasuredSteps:
    return measure(tree("A"), start(), levels(32))


def alignment(vectors: Tensor, chosen: Tensor) -> float:
    found = measured()
    return cosine(vectors, found.eigenvector)[chosen].mean().item()


@pytest.mark.slow
def test_where_stiff_the_error_lies_along_the_dominant_eigenvector() -> None:
    """And so do the free directions; where not stiff, all are near chance (2/pi)."""
    found = measured()
    stiff, soft = found.size > 30, found.size < 1
    assert stiff.sum() > 300 and soft.sum() > 300
    assert alignment(found.lte, stiff) > 0.78
    assert alignment(found.dx, stiff) > 0.75
    assert alignment(found.df, stiff) > 0.90
    for vectors in (found.lte, found.dx, found.df):
        assert 0.50 < alignment(vectors, soft) < 0.72
    used = (found.at_start.abs() > 30) & found.used.isfinite().all(dim=1)
    assert cosine(found.used, found.start_vector)[used].mean() > 0.87


def test_the_estimate_follows_the_stiffness_from_below() -> None:
    """Figure 3: R against |lambda|, |cos| of df against that of dx."""
    found = measured()
    logs = torch.stack([found.estimate.log(), found.size.log()])
    assert torch.corrcoef(logs)[0, 1] > 0.97
    stiff = found.size > 10
    assert spearmanr(found.estimate[stiff], found.size[stiff]).statistic > 0.75
    closer = cosine(found.df, found.eigenvector) >= cosine(found.dx, found.eigenvector)
    assert closer[stiff].double().mean() > 0.95
    assert (found.estimate <= 1.05 * found.size).double().mean() > 0.98


@pytest.mark.parametrize("cos", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.9])
def test_the_law_of_the_estimate(cos: float, ratio: float) -> None:
    """For a constant symmetric J: R/|lambda| = sqrt(c^2 + r^2 (1 - c^2)), cos(df, v) = c / that."""
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    jacobian = turn @ torch.diag(torch.tensor([5.0, -5.0 * ratio], dtype=torch.float64)) @ turn.T
    value, vector, second = eigenpairs(jacobian[None])
    assert value.item() == pytest.approx(5) and second.item() == pytest.approx(-5 * ratio)
    dx = turn @ torch.tensor([cos, math.sqrt(1 - cos**2)], dtype=torch.float64)
    df = jacobian @ dx
    law = math.sqrt(cos**2 + ratio**2 * (1 - cos**2))
    assert df.norm().item() / 5 == pytest.approx(law)
    assert law <= 1
    if law:
        assert cosine(df[None], vector).item() == pytest.approx(cos / law, abs=1e-9)


def test_exact_steps_of_one_gaussian() -> None:
    """RK4 in log sigma against the closed form; half the step has a sixteenth of the error."""
    spread = 0.3
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    exact = x * math.hypot(spread, 1) / math.hypot(spread, 2)

    def gap(substeps: int) -> float:
        found = exact_step(lambda x, sigma: x * sigma / (spread**2 + sigma**2), x, 2.0, 1.0, substeps)
        return (found - exact).norm().item()

    assert gap(8) < 1e-6
    assert 12 < gap(8) / gap(16) < 20


def end_error(num_steps: int, correction: Correct = no_correction) -> float:
    """Mean distance of Heun's end points from the exact ones."""
    run = Run(heun_step, 1, levels(num_steps), to_zero=False)
    x = integrate(tree("A").denoised, start(), run, None, correction)
    return (x - exact_ends()).norm(dim=1).mean().item()


@functools.cache
def exact_ends() -> Tensor:
    return end_points(tree("A"), start(), 16)  # to 3e-6


@pytest.mark.parametrize(("steps", "w_stiff"), [(8, 0.5), (16, 0.408)])
def test_erk_guid_brings_the_end_points_closer(steps: int, w_stiff: float) -> None:
    """And the same correction with its sign flipped takes them away."""
    correct = erk_guid(w_stiff, 0.5)

    def flipped(step: Step) -> Corrected:
        found = correct(step)
        return found._replace(x_next=2 * step.x_next - found.x_next)

    plain = end_error(steps)
    assert end_error(steps, correct) < 0.75 * plain
    assert end_error(steps, flipped) > 1.3 * plain


@pytest.mark.parametrize("steps", [8, 16, 32])
@pytest.mark.parametrize(("name", "bound"), [("erk_gauss", 0.7), ("erk_dx", 0.5)])
def test_corrections_without_a_parameter(steps: int, name: str, bound: float) -> None:
    assert end_error(steps, CORRECTIONS[name].make(1.0, 0.0)) < bound * end_error(steps)
