"""Local errors, free estimates and eigenvectors along Heun's trajectories (the paper's Figures 1 to 3)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from erk_bench.sampling.loop import Run
from erk_bench.sampling.schedules import polynomial
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.studies.analysis.mixture import GaussianMixture

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0
SUBSTEPS = 8

Drift = Callable[[Tensor, float], Tensor]


def levels(num_steps: int) -> list[float]:
    """EDM's noise levels, float64: num_steps of them, the last above zero."""
    return polynomial(num_steps, SIGMA_MIN, SIGMA_MAX, RHO, torch.float64).tolist()


def exact_step(drift: Drift, x: Tensor, sigma: float, sigma_next: float, substeps: int = SUBSTEPS) -> Tensor:
    """The solution at sigma_next of dx/dsigma = drift(x, sigma) through x [N, D]: RK4 in log sigma."""
    h = math.log(sigma_next / sigma) / substeps

    def rate(point: Tensor, level: float) -> Tensor:
        return level * drift(point, level)

    for number in range(substeps):
        start = sigma * math.exp(number * h)
        middle, end = start * math.exp(h / 2), start * math.exp(h)
        k1 = rate(x, start)
        k2 = rate(x + h / 2 * k1, middle)
        k3 = rate(x + h / 2 * k2, middle)
        k4 = rate(x + h * k3, end)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def eigenpairs(jacobian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of symmetric [N, D, D]: dominant eigenvalue [N] (of largest size) and eigenvector [N, D], and the
    eigenvalue of second size [N]."""
    values, vectors = torch.linalg.eigh(jacobian)
    order = values.abs().argsort(dim=1, descending=True)
    rows = torch.arange(len(values))
    return values[rows, order[:, 0]], vectors[rows, :, order[:, 0]], values[rows, order[:, 1]]


@dataclass(frozen=True)
class MeasuredSteps:
    """A row for each step (from sigma to sigma_next) and sample, [M] or [M, D], float64.

    start: where the step begins. lte: Heun's minus the exact solution of the step. dx, df: Heun's minus
    Euler's solution at sigma_next and the difference of their slopes, which the next step's correction
    reads. used: df of the pair that this step's correction reads, NaN in the first step. eigenvalue,
    eigenvector, second: of the drift's Jacobian at Heun's solution, dominant and second by size; at_start,
    start_vector: dominant at the start.
    """

    sample: Tensor
    sigma: Tensor
    sigma_next: Tensor
    start: Tensor
    lte: Tensor
    dx: Tensor
    df: Tensor
    used: Tensor
    eigenvalue: Tensor
    eigenvector: Tensor
    second: Tensor
    at_start: Tensor
    start_vector: Tensor

    @property
    def size(self) -> Tensor:
        """|lambda| [M] of the dominant eigenvalue."""
        return self.eigenvalue.abs()

    @property
    def estimate(self) -> Tensor:
        """The free estimate of stiffness R = |df| / |dx| [M]."""
        return self.df.norm(dim=1) / self.dx.norm(dim=1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """|cos| of the angle between vectors [M, D]; NaN where one is zero."""
    return (a * b).sum(dim=1).abs() / (a.norm(dim=1) * b.norm(dim=1))


def measure(
    mixture: GaussianMixture, start: Tensor, sigmas: Sequence[float], substeps: int = SUBSTEPS
) -> MeasuredSteps:
    """Every step of Heun's trajectories from `start` [N, 2] at sigmas[0]; float64, since an LTE is small.

    The steps are those of the solver that samples (sampling/solvers.py), without a correction.
    """
    found: list[dict[str, Tensor]] = []
    slope = Run(SOLVERS["heun"].step, 1, sigmas, to_zero=False).slope(mixture.denoised, None)
    x = start.double()
    nothing = torch.full_like(x, math.nan)
    for sigma, sigma_next in itertools.pairwise(sigmas):
        step = SOLVERS["heun"].step(slope, x, sigma, sigma_next, [])
        euler, heun = step.ahead, step.x_next
        assert euler is not None  # Heun's step contains Euler's
        eigenvalue, eigenvector, second = eigenpairs(mixture.jacobian(heun, sigma_next))
        at_start, start_vector, _ = eigenpairs(mixture.jacobian(x, sigma))
        found.append(
            {
                "sample": torch.arange(len(x)),
                "sigma": torch.full((len(x),), sigma, dtype=x.dtype),
                "sigma_next": torch.full((len(x),), sigma_next, dtype=x.dtype),
                "start": x,
                "lte": heun - exact_step(mixture.drift, x, sigma, sigma_next, substeps),
                "dx": heun - euler.x,
                "df": slope(heun, sigma_next) - euler.slope,
                "used": found[-1]["df"] if found else nothing,
                "eigenvalue": eigenvalue,
                "eigenvector": eigenvector,
                "second": second,
                "at_start": at_start,
                "start_vector": start_vector,
            }
        )
        x = heun
    return MeasuredSteps(
        **{item.name: torch.cat([row[item.name] for row in found]) for item in fields(MeasuredSteps)}
    )


def end_points(mixture: GaussianMixture, start: Tensor, num_steps: int, substeps: int = 2) -> Tensor:
    """The exact solutions at SIGMA_MIN through `start` at SIGMA_MAX, by RK4 over 4 num_steps intervals."""
    x = start.double()
    fine = levels(4 * num_steps)
    for sigma, sigma_next in itertools.pairwise(fine):
        x = exact_step(mixture.drift, x, sigma, sigma_next, substeps)
    return x
