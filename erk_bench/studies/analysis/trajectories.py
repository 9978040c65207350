"""Stiffness along a denoiser's own trajectories: what the solver estimates for free beside what is there."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from erk_bench.base.errors import UserError
from erk_bench.sampling.corrections import Correct, Corrected
from erk_bench.sampling.equation import Problem
from erk_bench.sampling.loop import integrate
from erk_bench.sampling.steps import Node, Slope, Step

TOLERANCE = 0.02  # of the residual |J v - lambda v| / |lambda|, for an eigenpair to count as found


class Dominant(NamedTuple):
    """eigenvalue [N] (of v, by its Rayleigh quotient), v [N, ...] of unit length, and the residual
    |J v - eigenvalue v| / |eigenvalue| [N]."""

    eigenvalue: Tensor
    vector: Tensor
    residual: Tensor


@dataclass(frozen=True)
class ObservedSteps:
    """A row for each step after the first and each sample, [M], on the CPU in float64.

    step, sample: numbers. sigma: where the step starts, and everything is measured. estimate: R = |df| / |dx|
    of the pair that its correction reads. along_dx: |J dx| / |dx|, what R estimates where J is constant.
    eigenvalue, residual: of power iteration. cos_dx, cos_df: |cos| with the eigenvector.
    """

    step: Tensor
    sample: Tensor
    sigma: Tensor
    estimate: Tensor
    along_dx: Tensor
    eigenvalue: Tensor
    residual: Tensor
    cos_dx: Tensor
    cos_df: Tensor

    @property
    def size(self) -> Tensor:
        """|lambda| [M]."""
        return self.eigenvalue.abs()

    @property
    def converged(self) -> Tensor:
        """Whether power iteration found an eigenpair [M], bool."""
        return self.residual < TOLERANCE


def power_iteration(product: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> Dominant:
    """The eigenpair of largest |eigenvalue| of J from products J v, each sample [N, ...] by itself.

    Stops early where every residual is below TOLERANCE / 2. Where two eigenvalues are nearly as large, the
    quotient lies between them and the vector in the space of both: the residual tells.
    """
    vector = start / _norm(start)
    for number in range(iterations):
        image = product(vector)
        eigenvalue = _dot(vector, image)
        residual = _norm(image - eigenvalue * vector) / eigenvalue.abs()
        if number == iterations - 1 or bool((residual < TOLERANCE / 2).all()):
            break
        vector = image / _norm(image)
    return Dominant(eigenvalue.flatten(), vector, residual.flatten())


def jacobian_product(slope: Slope, x: Tensor, sigma: float) -> Callable[[Tensor], Tensor]:
    """v -> J v [N, ...] in float64, J the derivative of slope(x, sigma) by x, each sample by itself."""

    def product(vector: Tensor) -> Tensor:
        # Fused attention has no forward-mode derivative; torch's own use of torch.jit warns.
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            image: Tensor = torch.func.jvp(lambda point: slope(point, sigma), (x,), (vector.to(x),))[1]
        return image.double()

    return product


def observe(
    problem: Problem,
    noise: Tensor,
    labels: Tensor | None,
    correct: Correct,
    iterations: int = 50,
    progress: Callable[[], None] = lambda: None,
) -> ObservedSteps:
    """Sample from unit noise [N, C, H, W], measuring at the start of every step that has a pair.

    The Jacobian is that of the (guided) drift dx/dsigma, by forward-mode products; it is not symmetric for a
    network. Nothing is differentiated through. progress() is called after every step.
    """
    slope = problem.run.slope(problem.denoiser, labels)
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(noise.shape[1:], generator=generator).to(noise).expand_as(noise)
    rows: list[dict[str, Tensor]] = []
    index = 0

    def measured(step: Step, partner: Node) -> dict[str, Tensor]:
        x, sigma = step.node.x, step.node.sigma
        product = jacobian_product(slope, x, sigma)
        dx, df = (x - partner.x).double(), (step.node.slope - partner.slope).double()
        found = power_iteration(product, first.double(), iterations)
        numbers = torch.arange(len(x))
        return {
            "step": torch.full_like(numbers, index),
            "sample": numbers,
            "sigma": torch.full((len(x),), sigma),
            "estimate": _norm(df) / _norm(dx),
            "along_dx": _norm(product(dx / _norm(dx))),
            "eigenvalue": found.eigenvalue,
            "residual": found.residual,
            "cos_dx": _dot(dx, found.vector).abs() / _norm(dx),
            "cos_df": _dot(df, found.vector).abs() / _norm(df),
        }

    def observed(step: Step) -> Corrected:
        nonlocal index
        if step.partner is not None:
            rows.append(measured(step, step.partner))
        index += 1
        progress()
        return correct(step)

    with torch.no_grad():
        integrate(problem.denoiser, noise * problem.start, problem.run, labels, observed)
    if not rows:
        raise UserError(f"no step of these {index} has a pair to estimate from; use more steps")
    columns = {name: torch.cat([row[name].flatten().double().cpu() for row in rows]) for name in rows[0]}
    return ObservedSteps(**columns)


def chance(dimensions: int) -> float:
    """Mean |cos| of a random direction with a fixed one in so many dimensions."""
    log = math.lgamma(dimensions / 2) - math.lgamma((dimensions + 1) / 2)
    return math.exp(log) / math.sqrt(math.pi)


def _norm(x: Tensor) -> Tensor:
    """Per sample, [N, 1, ...]."""
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Per sample, [N, 1, ...]."""
    return (a * b).sum(dim=tuple(range(1, a.ndim)), keepdim=True)
