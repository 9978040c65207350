"""Corrections: a solver's step becomes the next state, helped by the pair that its embedded scheme offers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.sampling.steps import Step

NORM_EPS = 1e-8


class Corrected(NamedTuple):
    """x_next after the correction; stiffness [B] and gate [B] (bool), None where there was no estimate."""

    x_next: Tensor
    stiffness: Tensor | None
    gate: Tensor | None


Correction = Callable[[Step], Corrected]


def no_correction(step: Step) -> Corrected:
    """The solver's own step."""
    return Corrected(step.x_next, None, None)


def _along_stiff(w_stiff: float, w_con: float, factor: Callable[[Tensor], Tensor]) -> Correction:
    """Remove the error along the stiff direction: where rho > w_con, x_next loses h factor(z) <v, f> v.

    With dx, df the differences of the pair's points and slopes, rho = |df| / |dx| estimates the dominant
    eigenvalue and v = df / |df| its eigenvector; z = w_stiff h rho. Norms are per sample over (C, H, W).
    w_stiff = 0 returns the solver's own step.
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
        along = (df * step.node.slope).sum(dim=over)
        z = w_stiff * abs(step.span) * stiffness
        # The published program multiplies the step size by a float32 gate, which rounds it (but not
        # the one inside z) to float32; visible only with a float64 state, and reproduced here.
        span = torch.tensor(step.span, dtype=torch.float32).item()
        amount = torch.where(gate, span * factor(z) * along / (df_norm + NORM_EPS) ** 2, 0.0)
        amount = amount.reshape(-1, *[1] * len(over))
        return Corrected(torch.addcmul(step.x_next, amount, df, value=-1), stiffness, gate)

    return correct


def erk_guid(w_stiff: float, w_con: float) -> Correction:
    """ERK-Guid (arXiv 2603.03692; formulas in docs/method.md): the factor is z^2."""
    return _along_stiff(w_stiff, w_con, lambda z: z**2)


def erk_alpha(w_stiff: float, w_con: float) -> Correction:
    """ERK-Guid with the exact factor of its linear theory, `alpha`, in place of z^2; near 0 it is z^2 / 6."""
    return _along_stiff(w_stiff, w_con, alpha)


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


# Corrections by name, called with (w_stiff, w_con).
CORRECTIONS: dict[str, Callable[[float, float], Correction]] = {
    "none": lambda w_stiff, w_con: no_correction,
    "erk_guid": erk_guid,
    "erk_alpha": erk_alpha,
}
