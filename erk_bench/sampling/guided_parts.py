"""Guidances that take the two predictions, or their difference, apart along directions of each sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erk_bench.sampling.guided import (
    Denoiser,
    Interval,
    inner,
    level_of,
    norm,
    share_along,
    weighed,
    within,
)


def apg(
    main: Denoiser,
    guiding: Denoiser,
    weight: float,
    interval: Interval,
    levels: Sequence[float],
    *,
    eta: float = 0.0,
    norm_threshold: float = 0.0,
    momentum: float = 0.0,
    form: str = "paper",
) -> Denoiser:
    """Adaptive projected guidance (arXiv 2410.02416): D_m + (weight - 1) (orthogonal + eta * parallel).

    The parts are those of the update D_m - D_g, orthogonal and parallel to D_m. Before, the update gains
    momentum * that of the last evaluation, and is shortened to norm_threshold where it is longer (0: never).
    Norms and products are per sample over (C, H, W). With eta 1 alone this is classifier-free guidance. With
    momentum, the denoiser is good for one trajectory of one batch. form: "diffusers" adds to the other end,
    D_g + weight (orthogonal + eta * parallel), as that library does unless told otherwise.
    """
    if weight == 1:
        return main
    last: Tensor | None = None

    def combine(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
        nonlocal last
        update = denoised - other
        if momentum:
            update = update if last is None else update + momentum * last
            last = update
        if norm_threshold:
            update = update * (norm_threshold / norm(update)).clamp(max=1)
        kept = update + (eta - 1) * share_along(update, denoised) * denoised
        return denoised + (weight - 1) * kept if form == "paper" else other + weight * kept

    return within(interval, main, guiding, combine)


class _ZeroFirst:
    """`then`, but in the first steps of the run what a prediction of zero means, without an evaluation."""

    def __init__(self, then: Denoiser, num_steps: int, space: str) -> None:
        self._then, self._num_steps, self._space = then, num_steps, space
        self._step = 0

    def begin_step(self, index: int) -> None:
        self._step = index

    def __call__(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None) -> Tensor:
        if self._step < self._num_steps:
            return _to_denoised(torch.zeros_like(x), x, level_of(sigma, x), self._space)
        return self._then(x, sigma, condition)


def _from_denoised(denoised: Tensor, x: Tensor, level: float | Tensor, space: str) -> Tensor:
    """What a network of that kind predicts."""
    if space == "denoised":
        return denoised
    return (x - (1 + level) * denoised if space == "velocity" else x - denoised) / level


def _to_denoised(predicted: Tensor, x: Tensor, level: float | Tensor, space: str) -> Tensor:
    if space == "denoised":
        return predicted
    clean = x - level * predicted
    return clean / (1 + level) if space == "velocity" else clean


def _scale(mine: Tensor, theirs: Tensor, space: str) -> Tensor:
    """<P_m, P_g> / |P_g|^2 of each sample; of denoised images in float32, as diffusers does."""
    if space == "denoised":
        mine, theirs = mine.float(), theirs.float()
    return inner(mine, theirs) / (inner(theirs, theirs) + 1e-8)


def cfg_zero_star(
    main: Denoiser,
    guiding: Denoiser,
    weight: float,
    interval: Interval,
    levels: Sequence[float],
    *,
    space: str = "denoised",
    zero_steps: int = 0,
) -> Denoiser:
    """CFG-Zero* (arXiv 2503.18886): the guiding prediction is scaled to the part of the main one along it.

    s P_g + weight (P_m - s P_g) with s = <P_m, P_g> / |P_g|^2 of each sample. P is what `space` says: the
    denoised image, the velocity of flow matching (x_t = x / (1 + s), t = s / (1 + s)) as in the paper, or
    the slope (x - D) / s. In the first zero_steps steps of the run P is zero and no network is evaluated.
    """
    if weight == 1:
        return main

    def combine(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
        level = level_of(sigma, x)
        mine, theirs = (_from_denoised(each, x, level, space) for each in (denoised, other))
        scaled = _scale(mine, theirs, space) * theirs
        return _to_denoised(weighed(x, mine, scaled, weight), x, level, space)

    found = within(interval, main, guiding, combine)
    return _ZeroFirst(found, zero_steps, space) if zero_steps else found


def tcfg(
    main: Denoiser, guiding: Denoiser, weight: float, interval: Interval, levels: Sequence[float]
) -> Denoiser:
    """Tangential CFG, as diffusers has it: the guiding prediction keeps its part along v alone.

    v is the direction that the two predictions of a sample have most in common: the first right singular
    vector of the matrix of both, cos(a) D_m + sin(a) D_g with tan(2 a) = 2 <D_m, D_g> / (|D_m|^2 - |D_g|^2).
    """
    if weight == 1:
        return main

    def combine(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
        across = inner(denoised, denoised) - inner(other, other)
        angle = torch.atan2(2 * inner(denoised, other), across) / 2
        common = torch.cos(angle) * denoised + torch.sin(angle) * other
        return weighed(x, denoised, share_along(other, common) * common, weight)

    return within(interval, main, guiding, combine)
