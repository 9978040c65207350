"""Heun's method with step sizes of its own: each sample as many steps as its error needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.transfers import rows_where
from erk_bench.sampling.steps import Node, Slope, Step

SAFETY, SHRINK_MOST, GROW_MOST = 0.9, 0.2, 5.0
FIRST_SHARE = 0.1  # of sigma: the first step tried
MAX_TRIES = 10_000


def heun_adaptive_step(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    tolerance: float = 0.05,
) -> Step:
    """From sigma to sigma_next in steps that keep the embedded error below the tolerance.

    The error of a step is that between Heun's and Euler's result, the pair that ERK-Guid reads: its root mean
    square over (C, H, W), against tolerance * (1 + that of the state). Step sizes follow the standard
    controller for an error of second order (Hairer, Norsett, Wanner, Solving ODEs I, section II.4). Every
    sample has its own, so none depends on the others of its batch; it costs two evaluations a step, one more
    for a step taken back. Give the schedule few levels: they are where all samples meet.
    """
    x = x.clone()
    level = torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)
    first = slope(x, sigma)
    node = Node(x.clone(), first, sigma)
    h = torch.full_like(level, min(FIRST_SHARE * sigma, sigma - sigma_next))
    drift = first.clone()
    running = torch.arange(len(x), device=x.device)
    for _ in range(MAX_TRIES):
        here, now, size = x[running], level[running], h[running]
        last = now - size <= sigma_next * (1 + 1e-6)
        target = torch.where(last, torch.full_like(now, sigma_next), now - size)
        size = now - target
        by = size.reshape(-1, *[1] * (x.ndim - 1))
        predicted = here - by * drift[running]
        ahead = slope(predicted, target, running)
        moved = here - by * (0.5 * drift[running] + 0.5 * ahead)
        error = _rms(moved - predicted) / (tolerance * (1 + _rms(moved)))
        good = ~(error > 1)  # a state that is not finite goes on, to be reported at the end
        factor = (SAFETY / error.clamp(min=1e-12).sqrt()).clamp(SHRINK_MOST, GROW_MOST)
        h[running] = torch.where(good & last, h[running], size * factor.nan_to_num(1.0))
        accepted, going, staying = rows_where(good, good & ~last, ~(good & last))
        x[running[accepted]] = moved[accepted]
        level[running[accepted]] = target[accepted]
        if len(going):
            rows = running[going]
            drift[rows] = slope(x[rows], level[rows], rows)
        running = running[staying]
        if not len(running):
            return Step(x, node, None, sigma - sigma_next, None)
    raise UserError(
        f"heun_adaptive tried {MAX_TRIES} steps between sigma {sigma:g} and {sigma_next:g} and did not "
        f"arrive; solver.tolerance {tolerance:g} is too small for this dtype"
    )


def _rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(dim=1).sqrt()
