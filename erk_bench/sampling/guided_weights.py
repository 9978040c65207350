"""Guidances that are D_g + w (D_m - D_g) with a weight w of their own: of the step, the level, the sample."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from erk_bench.base.transfers import to_device
from erk_bench.sampling.guided import (
    TINY,
    Denoiser,
    Interval,
    level_of,
    norm,
    weighed,
    within,
)

# Powers of the noise level by which differences of denoised images are differences of slopes and scores.
UNITS = {"denoised": 0, "slope": 1, "score": 2}


def _by_step(
    main: Denoiser,
    guiding: Denoiser,
    interval: Interval,
    levels: Sequence[float],
    weight: Callable[[float, float], float],
) -> Denoiser:
    """Guidance of weight(s, s_next) for sigma in (s_next, s], for each pair of neighbouring levels.

    At the last level and below it is weight(s, 0), of the step to zero. Churn raises sigma above the first
    level, where the first step's weight goes on.
    """
    ascending = sorted(levels)
    weights = [weight(high, low) for low, high in itertools.pairwise([0.0, *ascending])]

    @functools.cache
    def on(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        both = (torch.tensor(values, dtype=dtype) for values in (ascending, weights))
        levels, weights_there = (to_device(values, device) for values in both)
        return levels, weights_there

    def combine(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
        if isinstance(sigma, Tensor) and sigma.ndim:
            known, there = on(sigma.dtype, sigma.device)
            return weighed(
                x, denoised, other, there[torch.bucketize(sigma, known).clamp(max=len(weights) - 1)]
            )
        index = min(bisect.bisect_left(ascending, float(sigma)), len(weights) - 1)
        return torch.lerp(other, denoised, weights[index])

    return within(interval, main, guiding, combine)


def cfgpp(
    main: Denoiser, guiding: Denoiser, weight: float, interval: Interval, levels: Sequence[float]
) -> Denoiser:
    """CFG++ (arXiv 2406.08070): noise is added back with the guiding denoiser's noise, weight 0 to 1.

    With D = D_g + weight (D_m - D_g), its DDIM step x_next = D + (s_next / s) (x - D_g) is Euler's with
    classifier-free guidance of weight * s / (s - s_next). That is the weight here for sigma in (s_next, s],
    for each pair of neighbouring levels; at the last level and below (the step to zero) it is `weight`.
    Solvers other than Euler's get the same schedule of weights, which is no longer the published update.
    """
    return _by_step(main, guiding, interval, levels, lambda s, s_next: weight * (s / (s - s_next)))


def fitted_cfg(
    main: Denoiser, guiding: Denoiser, weight: float, interval: Interval, levels: Sequence[float]
) -> Denoiser:
    """Fitted CFG (arXiv 2607.07665): Euler's step takes the guidance as an exponential does, not as a line.

    With r = s_next / s the step is x_next = D_m + r (x - D_m) + (r^weight - r) (D_g - D_m), which is Euler's
    with classifier-free guidance of 1 + (r - r^weight) / (1 - r). That is the weight here for sigma in
    (s_next, s]; at the last level and below (the step to zero, r = 0) it is 1, no guidance. Solvers other
    than Euler's get the same schedule of weights, which nobody has published.
    """
    if weight == 1:
        return main

    def fitted(s: float, s_next: float) -> float:
        r = s_next / s
        return 1 + (r - r**weight) / (1 - r)

    return _by_step(main, guiding, interval, levels, fitted)


def c2fg(
    main: Denoiser,
    guiding: Denoiser,
    weight: float,
    interval: Interval,
    levels: Sequence[float],
    *,
    rate: float = 0.2,
) -> Denoiser:
    """C2FG (arXiv 2603.08155): the weight grows as noise falls, weight * exp(rate (1 - t)), t = s / (1 + s).

    Rate 0 is classifier-free guidance.
    """

    def combine(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
        exponent = rate / (1 + sigma)
        growth = torch.exp(exponent) if isinstance(exponent, Tensor) else math.exp(exponent)
        return weighed(x, denoised, other, weight * growth)

    return within(interval, main, guiding, combine)


def power_law(
    main: Denoiser,
    guiding: Denoiser,
    weight: float,
    interval: Interval,
    levels: Sequence[float],
    *,
    alpha: float = 0.9,
    units: str = "denoised",
) -> Denoiser:
    """Power-law CFG (arXiv 2502.07849): D_m + (weight - 1) n^alpha u, where u = D_m - D_g and n its norm.

    The norm is of each sample over (C, H, W), measured in `units`: as it is ("denoised"), or divided by s
    ("slope") or s^2 ("score", as the paper has it). Alpha 0 is classifier-free guidance.
    """
    if weight == 1:
        return main
    power = UNITS[units]

    def combine(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
        size = norm(denoised - other) / level_of(sigma, x) ** power
        return weighed(x, denoised, other, 1 + (weight - 1) * size.clamp(min=TINY) ** alpha)

    return within(interval, main, guiding, combine)


def mambo_g(
    main: Denoiser,
    guiding: Denoiser,
    weight: float,
    interval: Interval,
    levels: Sequence[float],
    *,
    alpha: float = 8.0,
) -> Denoiser:
    """MAMBO-G, magnitude-aware guidance: the weight 1 + (weight - 1) exp(-alpha |D_m - D_g| / |D_g|).

    Norms are of each sample over (C, H, W). Alpha 0 is classifier-free guidance.
    """
    if weight == 1:
        return main

    def combine(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
        ratio = norm(denoised - other) / norm(other).clamp(min=TINY)
        return weighed(x, denoised, other, 1 + (weight - 1) * torch.exp(-alpha * ratio))

    return within(interval, main, guiding, combine)
