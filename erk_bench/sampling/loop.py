"""The one sampling loop: stepping, history, evaluation counts, stochastic churn, first and last step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.base.transfers import number_on
from erk_bench.sampling.corrections import Correct
from erk_bench.sampling.guided import Denoiser, begin_step
from erk_bench.sampling.steps import Node, Slope, Step, StepFunction


class Churn(NamedTuple):
    """Stochastic sampling of EDM (arXiv 2206.00364, algorithm 2); s_churn 0 is deterministic."""

    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0


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
        self.guided_channels: int | None = getattr(denoiser, "guided_channels", None)
        self.num_calls = 0
        self.num_images = 0

    def __call__(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None) -> Tensor:
        self.num_calls += 1
        self.num_images += len(x)
        return self._denoiser(x, number_on(sigma, x.dtype, x.device), condition).to(x.dtype)


class Run(NamedTuple):
    """What a run's steps are: a step function, how many past steps it reads, the noise levels (above zero).

    to_zero: a last step from the last level to zero, by Euler's method, which gives the denoised image there.
    afs: the first evaluation is replaced by x / sqrt(1 + sigma^2), almost the slope for data of unit variance
    (analytical first step, arXiv 2210.05475). through_zero: the step function makes the step to zero too.
    least: a slope is divided by no lower level (see sampling/native). noise: above 0 the equation is the
    stochastic one of a model's own coordinates, dx = (slope + e) du + noise sqrt(2 u) dw, where
    e = x + (1 - u) slope is the noise in x that the denoiser sees (arXiv 2401.08740, with w = u).
    """

    step: StepFunction
    history: int
    levels: Sequence[float]
    to_zero: bool = True
    afs: bool = False
    through_zero: bool = False
    least: float = 0.0
    noise: float = 0.0

    def steps(self) -> list[tuple[float, float]]:
        """Sigma before and after each step."""
        return list(itertools.pairwise([*self.levels, 0.0] if self.to_zero else self.levels))

    def slope(self, denoiser: Denoiser, condition: Tensor | None) -> Slope:
        """dx/dsigma by evaluations of the denoiser."""

        def slope(x: Tensor, sigma: float | Tensor, rows: Tensor | None = None) -> Tensor:
            if self.afs and isinstance(sigma, float) and sigma == self.levels[0]:
                return x / math.sqrt(1 + sigma**2)
            own = condition if condition is None or rows is None else condition[rows]
            denoised = denoiser(x, sigma, own)
            if isinstance(sigma, Tensor):
                return (x - denoised) / sigma.reshape(-1, *[1] * (x.ndim - 1)).clamp(min=self.least)
            ode = (x - denoised) / max(sigma, self.least)
            return x + (2 - sigma) * ode if self.noise else ode

        return slope

    def take(self, slope: Slope, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Step]) -> Step:
        """The step from sigma to sigma_next."""
        if sigma_next > 0 or self.through_zero:
            return self.step(slope, x, sigma, sigma_next, history)
        node = Node(x, slope(x, sigma), sigma)
        return Step(x - sigma * node.slope, node, None, sigma, None)

    def kept(self, history: Sequence[Step], step: Step) -> list[Step]:
        """The past that the next step reads."""
        return [*history, step][-self.history :] if self.history else []


def integrate(
    denoiser: Denoiser,
    x: Tensor,
    run: Run,
    condition: Tensor | None,
    correct: Correct,
    churn: Churn = Churn(),  # noqa: B008 - a frozen value
    fresh_noise: Callable[[Tensor], Tensor] = torch.randn_like,
    trace: Trace | None = None,
) -> Tensor:
    """Integrate dx/dsigma = (x - D) / sigma from x at the first level through the run; the last state.

    fresh_noise(x) draws standard normal noise like x, for churn and stochastic equations.
    """
    slope = run.slope(denoiser, condition)
    history: list[Step] = []
    steps = run.steps()
    for index, (sigma, sigma_next) in enumerate(steps):
        if churn.s_churn > 0 and churn.s_min <= sigma <= churn.s_max:
            x, sigma = _churned(churn, x, sigma, len(steps), fresh_noise)
        begin_step(denoiser, index)
        step = run.take(slope, x, sigma, sigma_next, history)
        corrected = correct(step)
        if trace is not None:
            trace(TracePoint(index, sigma, sigma_next, x, corrected.x_next, *corrected[1:]))
        x = corrected.x_next
        if run.noise and sigma_next > 0:
            x = x + run.noise * math.sqrt(2 * sigma * (sigma - sigma_next)) * fresh_noise(x)
        history = run.kept(history, step)
    return x


def _churned(
    churn: Churn, x: Tensor, sigma: float, num_steps: int, fresh_noise: Callable[[Tensor], Tensor]
) -> tuple[Tensor, float]:
    """Raise the noise level a little by adding fresh noise (algorithm 2, lines 4 to 6)."""
    gamma = min(churn.s_churn / num_steps, math.sqrt(2) - 1)
    raised = sigma + gamma * sigma
    added = math.sqrt(raised**2 - sigma**2) * churn.s_noise
    return x + added * fresh_noise(x), raised
