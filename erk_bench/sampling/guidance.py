"""Model guidance (two denoisers become one) and corrections (a solver's step is corrected)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.sampling.solvers import Step

Denoiser = Callable[[Tensor, float, Tensor | None], Tensor]

NORM_EPS = 1e-8


def guided(
    main: Denoiser,
    guiding: Denoiser,
    weight: float,
    interval: tuple[float, float] = (0.0, math.inf),
) -> Denoiser:
    """D = D_g + weight (D_m - D_g) for sigma in (low, high], the main denoiser alone elsewhere.

    Classifier-free guidance when `guiding` is unconditional (arXiv 2207.12598), autoguidance when it is a
    weaker network (arXiv 2406.02507); guidance interval: arXiv 2404.07724. Where the weight is 1 the guiding
    denoiser is not evaluated.
    """
    low, high = interval

    def denoiser(x: Tensor, sigma: float, labels: Tensor | None) -> Tensor:
        denoised = main(x, sigma, labels)
        if weight == 1 or not low < sigma <= high:
            return denoised
        return torch.lerp(guiding(x, sigma, labels), denoised, weight)

    return denoiser


class Corrected(NamedTuple):
    """x_next after the correction; stiffness [B] and gate [B] (bool), None where there was no estimate."""

    x_next: Tensor
    stiffness: Tensor | None
    gate: Tensor | None


Correction = Callable[[Step], Corrected]


def no_correction(step: Step) -> Corrected:
    """The solver's own step."""
    return Corrected(step.x_next, None, None)


def erk_guid(w_stiff: float, w_con: float) -> Correction:
    """ERK-Guid (arXiv 2603.03692; formulas in docs/method.md): remove the error along the stiff direction.

    With dx, df the differences of the pair's points and slopes, rho = |df| / |dx| estimates the dominant
    eigenvalue and v = df / |df| its eigenvector; where rho > w_con, x_next loses h z^2 <v, f> v with
    z = w_stiff h rho. Norms are per sample over (C, H, W). w_stiff = 0 returns the solver's own step.
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
        amount = torch.where(gate, span * z**2 * along / (df_norm + NORM_EPS) ** 2, 0.0)
        amount = amount.reshape(-1, *[1] * len(over))
        return Corrected(torch.addcmul(step.x_next, amount, df, value=-1), stiffness, gate)

    return correct


# Model guidance by name: which of a model's guiding networks it takes.
GUIDANCES: dict[str, str | None] = {
    "none": None,
    "cfg": "unconditional",
    "autoguidance": "weaker",
}

# Corrections by name, called with (w_stiff, w_con).
CORRECTIONS: dict[str, Callable[[float, float], Correction]] = {
    "none": lambda w_stiff, w_con: no_correction,
    "erk_guid": erk_guid,
}
