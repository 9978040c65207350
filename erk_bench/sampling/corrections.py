"""Corrections: a solver's step becomes the next state, helped by the pair that its embedded scheme offers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.sampling.options import Allowed
from erk_bench.sampling.steps import Node, Step

NORM_EPS = 1e-8
W_CON = 0.5  # the gate's default, as published


class Corrected(NamedTuple):
    """x_next after the correction; stiffness [B] and gate [B] (bool), None where there was no estimate."""

    x_next: Tensor
    stiffness: Tensor | None
    gate: Tensor | None


# What happens to a step; the next state may be changed.
Correct = Callable[[Step], Corrected]


class Correction(NamedTuple):
    """A row of CORRECTIONS.

    make(w_stiff, w_con, **options) is what happens to each step at this strength and gate; strength 0 leaves
    it as it is. options: what its own options may be. needs_pair: whether it reads the pair of a solver's
    embedded scheme. needs_euler: whether it compares the step with Euler's, so that the solver must have
    both. gated: whether it acts only where the estimated stiffness exceeds w_con, and is the plain step
    elsewhere, so that trajectories of other strengths and gates can be shared up to there. of_edm: whether
    its formula holds in x and sigma alone, not in a model's own coordinates.
    """

    make: Callable[..., Correct]
    options: Mapping[str, Allowed] = {}
    needs_pair: bool = True
    needs_euler: bool = False
    gated: bool = True
    of_edm: bool = False

    @property
    def function(self) -> Callable[..., Correct]:
        """The function that makes the correction."""
        return self.make


def no_correction(step: Step) -> Corrected:
    """The solver's own step."""
    return Corrected(step.x_next, None, None)


class _Pair(NamedTuple):
    """What the embedded pair tells of a step: per sample [B], and the difference of slopes [B, ...].

    stiffness: rho = |df| / |dx|, estimate of the dominant eigenvalue; v = df / |df| estimates its
    eigenvector. norm: |df| + 1e-8. strength: w_stiff.
    """

    stiffness: Tensor
    df: Tensor
    norm: Tensor
    strength: float

    def along(self, other: Tensor) -> Tensor:
        """<other, df> per sample [B]."""
        return (self.df * other).sum(dim=tuple(range(1, other.ndim)))


# What a correction takes away: x_next loses amount [B] times direction [B, ...].
Change = Callable[[Step, _Pair], tuple[Tensor, Tensor]]


def _where_stiff(w_stiff: float, w_con: float, change: Change) -> Correct:
    """The change, for samples whose stiffness exceeds w_con.

    Norms are per sample over (C, H, W). w_stiff = 0 returns the solver's own step.
    """

    def correct(step: Step) -> Corrected:
        if step.partner is None:
            return Corrected(step.x_next, None, None)
        over = tuple(range(1, step.x_next.ndim))
        dx = step.node.x - step.partner.x
        df = step.node.slope - step.partner.slope
        dx_norm = torch.linalg.vector_norm(dx, dim=over)
        df_norm = torch.linalg.vector_norm(df, dim=over)
        stiffness = df_norm / (dx_norm + NORM_EPS)
        gate = stiffness > w_con
        if w_stiff == 0:
            return Corrected(step.x_next, stiffness, gate)
        amount, direction = change(step, _Pair(stiffness, df, df_norm + NORM_EPS, w_stiff))
        amount = torch.where(gate, amount, 0.0).reshape(-1, *[1] * len(over))
        return Corrected(torch.addcmul(step.x_next, amount, direction, value=-1), stiffness, gate)

    return correct


def _along_stiff(w_stiff: float, w_con: float, factor: Callable[[Step, _Pair], Tensor]) -> Correct:
    """Remove the error along the stiff direction: x_next loses h factor <v, f> v."""

    def change(step: Step, pair: _Pair) -> tuple[Tensor, Tensor]:
        # The published program multiplies the step size by a float32 gate, which rounds it (but not
        # the one inside z) to float32; visible only with a float64 state, and reproduced here.
        span = torch.tensor(step.span, dtype=torch.float32).item()
        return span * factor(step, pair) * pair.along(step.node.slope) / pair.norm**2, pair.df

    return _where_stiff(w_stiff, w_con, change)


def erk_guid(w_stiff: float, w_con: float) -> Correct:
    """ERK-Guid (arXiv 2603.03692; formulas in docs/method.md): the factor is z^2 with z = w_stiff h rho."""
    return _along_stiff(w_stiff, w_con, lambda step, pair: _z(step, pair) ** 2)


def erk_alpha(w_stiff: float, w_con: float) -> Correct:
    """ERK-Guid with the exact factor of its linear theory, `alpha`, in place of z^2; near 0 it is z^2 / 6."""
    return _along_stiff(w_stiff, w_con, lambda step, pair: alpha(_z(step, pair)))


def erk_gauss(w_stiff: float, w_con: float) -> Correct:
    """The factor with which Heun's step is exact along v if the data are Gaussian there (`gaussian_factor`).

    It has no parameter of its own: w_stiff scales it, and 1 is the theory.
    """

    def factor(step: Step, pair: _Pair) -> Tensor:
        found = gaussian_factor(pair.stiffness, step.node.sigma, _euler(step).sigma)
        return pair.strength * found.to(pair.stiffness.dtype)

    return _along_stiff(w_stiff, w_con, factor)


def erk_dx(w_stiff: float, w_con: float) -> Correct:
    """x_Heun - (eta / 2) (x_Heun - x_Euler) with eta = h / sigma: the error of Heun's step lies along its
    difference to Euler's. It has no parameter of its own: w_stiff scales it, and 1 is the theory.
    """

    def change(step: Step, pair: _Pair) -> tuple[Tensor, Tensor]:
        amount = pair.strength * step.span / step.node.sigma / 2
        return torch.full_like(pair.stiffness, amount), step.x_next - _euler(step).x

    return _where_stiff(w_stiff, w_con, change)


def erk_proj(w_stiff: float, w_con: float) -> Correct:
    """Subtract w_stiff <x_Heun - x_Euler, v> v: part of the embedded difference along the stiff direction."""

    def change(step: Step, pair: _Pair) -> tuple[Tensor, Tensor]:
        difference = step.x_next - _euler(step).x
        return pair.strength * pair.along(difference) / pair.norm**2, pair.df

    return _where_stiff(w_stiff, w_con, change)


def _z(step: Step, pair: _Pair) -> Tensor:
    return pair.strength * abs(step.span) * pair.stiffness


def _euler(step: Step) -> Node:
    """Euler's solution of the same step, which Heun's contains."""
    if step.ahead is None:
        raise UserError("this correction needs a solver whose step contains Euler's; use solver=heun")
    return step.ahead


def gaussian_factor(eigenvalue: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """a with x_Heun - h a f exact in a direction where the data are Gaussian; float64, like eigenvalues.

    There lambda = sigma / (s^2 + sigma^2) tells the standard deviation s, and with it both Heun's and the
    exact solution; their difference is written so that nothing cancels (docs/theory.md). To leading order
    a = z (eta - z) / 2 with z = h lambda, eta = h / sigma.
    """
    precision = (eigenvalue.double() / sigma).clamp(max=1 / sigma**2)  # 1 / (s^2 + sigma^2)
    h, fall = sigma - sigma_next, sigma**2 - sigma_next**2
    left = 1 - precision * fall  # (s^2 + sigma_next^2) / (s^2 + sigma^2)
    return precision * (fall**2 / (1 + left.sqrt()) ** 2 - (h * sigma_next) ** 2 / left) / (2 * h * sigma)


def alpha(z: Tensor) -> Tensor:
    """(1 - e^-z - z + z^2 / 2) / z, elementwise for z >= 0.

    It is the error of a Heun step of size h on dx/dsigma = lambda x, in units of h dx/dsigma, with
    z = h lambda. Relative error below 1e-5 in float32 and 1e-9 in float64.
    """
    # The terms of the formula cancel for small z; there, ten terms of its series leave 1e-11.
    series = torch.zeros_like(z)
    for power in range(11, 1, -1):
        series = series * z + (-1) ** power / math.factorial(power + 1)
    direct = (z**2 / 2 - z - torch.expm1(-z)) / z
    return torch.where(z.abs() < 0.5, series * z**2, direct)


def correcting(correct: Callable[..., Tensor]) -> Correction:
    """The row of a function correct(step, w_stiff, w_con, **options) -> the next state, NCHW.

    Its options are keyword-only arguments with defaults. Any solver may be corrected: `step.partner` and
    `step.ahead` are None where the solver has none.
    """

    @functools.wraps(correct)
    def make(w_stiff: float, w_con: float, **options: Any) -> Correct:
        def corrected(step: Step) -> Corrected:
            if w_stiff == 0:
                return Corrected(step.x_next, None, None)
            return Corrected(correct(step, w_stiff, w_con, **options), None, None)

        return corrected

    return Correction(make, needs_pair=False, gated=False)


CORRECTIONS: dict[str, Correction] = {
    "none": Correction(lambda w_stiff, w_con: no_correction, needs_pair=False),
    "erk_guid": Correction(erk_guid),
    "erk_alpha": Correction(erk_alpha),
    "erk_gauss": Correction(erk_gauss, needs_euler=True, of_edm=True),
    "erk_dx": Correction(erk_dx, needs_euler=True),
    "erk_proj": Correction(erk_proj, needs_euler=True),
}
