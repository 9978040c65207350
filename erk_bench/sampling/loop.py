"""The one sampling loop: stepping, history, evaluation counts, stochastic churn, the last step to zero."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.sampling.guidance import Correction, Denoiser
from erk_bench.sampling.solvers import Solver, Step


class Churn(NamedTuple):
    """Stochastic sampling of EDM (arXiv 2206.00364, algorithm 2); fresh_noise(x) draws like x."""

    s_churn: float
    s_min: float
    s_max: float
    s_noise: float
    fresh_noise: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TracePoint:
    """What a trace callback sees after step `index`: the states around it and the estimate, if any."""

    index: int
    sigma: float
    sigma_next: float
    x: Tensor
    x_next: Tensor
    stiffness: Tensor | None
    gate: Tensor | None


Trace = Callable[[TracePoint], None]


class CountedDenoiser:
    """A denoiser that counts its calls and their images, and answers in the dtype of the state."""

    def __init__(self, denoiser: Callable[..., Tensor]) -> None:
        self._denoiser = denoiser
        self.num_calls = 0
        self.num_images = 0

    def __call__(self, x: Tensor, sigma: float, labels: Tensor | None) -> Tensor:
        self.num_calls += 1
        self.num_images += len(x)
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        return self._denoiser(x, level, labels).to(x.dtype)


def integrate(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    labels: Tensor | None,
    solver: Solver,
    correct: Correction,
    churn: Churn | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """Integrate dx/dsigma = (x - D) / sigma from x at sigmas[0] through sigmas; returns the last state."""

    def slope(x: Tensor, sigma: float) -> Tensor:
        return (x - denoiser(x, sigma, labels)) / sigma

    history: list[Step] = []
    num_steps = len(sigmas) - 1
    for index, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
        if churn is not None:
            x, sigma = _churned(churn, x, sigma, num_steps)
        step = solver.step(slope, x, sigma, sigma_next, history)
        corrected = correct(step)
        if trace is not None:
            trace(TracePoint(index, sigma, sigma_next, x, corrected.x_next, *corrected[1:]))
        x = corrected.x_next
        history = [*history, step][-solver.history :] if solver.history else []
    return x


def _churned(churn: Churn, x: Tensor, sigma: float, num_steps: int) -> tuple[Tensor, float]:
    """Raise the noise level a little by adding fresh noise (algorithm 2, lines 4 to 6)."""
    if churn.s_churn <= 0 or not churn.s_min <= sigma <= churn.s_max:
        return x, sigma
    gamma = min(churn.s_churn / num_steps, math.sqrt(2) - 1)
    raised = sigma + gamma * sigma
    added = math.sqrt(raised**2 - sigma**2) * churn.s_noise
    return x + added * churn.fresh_noise(x), raised
