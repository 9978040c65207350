"""Guidances that remember earlier evaluations; each is good for one trajectory of one batch."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.sampling.guided import (
    TINY,
    Denoiser,
    Interval,
    guided,
    guided_only,
    inner,
    level_of,
    norm,
    share_along,
    weighed,
    within,
)


def cfg_oec(
    main: Denoiser,
    guiding: Denoiser,
    weight: float,
    interval: Interval,
    levels: Sequence[float],
    *,
    tau: float = 0.5,
    mode: str = "hard",
) -> Denoiser:
    """CFG-OEC (arXiv 2511.14075), from its formula: the guiding noise loses its error along the main one's.

    With e = (x - D) / s of each network, the changes A of e_m and B of e_g since the last evaluation, where
    their cosine c is below tau: e_g becomes e_g - (<A, B> / |A|^2) A ("hard"), or that and e_g itself in
    the shares 1 - c and c ("blend"). Then e_g + weight (e_m - e_g). The first evaluation, and tau -1, are
    classifier-free guidance.
    """
    if weight == 1:
        return main
    last: tuple[Tensor, Tensor] | None = None

    def combine(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
        nonlocal last
        level = level_of(sigma, x)
        mine, theirs = (x - denoised) / level, (x - other) / level
        before, last = last, (mine, theirs)
        if before is not None:
            a, b = before[0] - mine, before[1] - theirs
            cosine = inner(a, b) / (norm(a) * norm(b)).clamp(min=TINY)
            error = share_along(b, a) * (1.0 if mode == "hard" else 1 - cosine)
            # Of the noise it is taken away, of the denoised image s times it is added.
            other = other + level * torch.where(cosine < tau, error, 0.0) * a
        return weighed(x, denoised, other, weight)

    return within(interval, main, guiding, combine)


def higs(
    main: Denoiser,
    guiding: Denoiser,
    weight: float,
    interval: Interval,
    levels: Sequence[float],
    *,
    strength: float = 1.75,
    alpha: float = 0.75,
    eta: float = 0.0,
    cutoff: float = 0.05,
    sharpness: float = 50.0,
    t_min: float = 0.4,
    t_max: float = 1.0,
) -> Denoiser:
    """HiGS, history-guided sampling (arXiv 2509.22300): away from a moving average of past predictions.

    D is classifier-free guidance of `weight`, d = D - h, and h the moving average alpha D + (1 - alpha) h of
    the earlier D, from h = 0. Of the part of d along D the share eta is kept, then its cosine transform is
    multiplied by sigmoid(sharpness (R - cutoff)), R = sqrt((u / H)^2 + (v / W)^2) (cutoff -1: by one).
    D + strength sqrt((t - t_min) / (t_max - t_min)) d for t_min < t <= t_max, t = s / (1 + s); D at the
    first evaluation. Strength 0 is classifier-free guidance; weight 1 needs no guiding network.
    """
    if not t_min < t_max:
        raise UserError(f"guidance.t_min is {t_min:g} and t_max {t_max:g}; need t_min < t_max")
    base = guided(main, guiding, weight, interval)
    low, high = interval
    average: Tensor | None = None

    def share(sigma: float | Tensor) -> float | Tensor:
        t = sigma / (1 + sigma)
        past = (t - t_min) / (t_max - t_min)
        acts = (low < sigma) & (sigma <= high) & (t_min < t) & (t <= t_max)
        if isinstance(past, Tensor):
            return torch.where(torch.as_tensor(acts), strength * past.clamp(min=0).sqrt(), 0.0)
        return strength * math.sqrt(past) if acts else 0.0

    def denoiser(x: Tensor, sigma: float | Tensor, labels: Tensor | None) -> Tensor:
        nonlocal average
        denoised = base(x, sigma, labels)
        before = average
        average = alpha * denoised if before is None else alpha * denoised + (1 - alpha) * before
        if before is None or not strength:
            return denoised
        away = denoised - before
        away = away + (eta - 1) * share_along(away, denoised) * denoised
        if cutoff > -1:
            away = _high_passed(away, cutoff, sharpness)
        return guided_only(main, denoised + level_of(share(sigma), x) * away, denoised)

    return denoiser


def _high_passed(x: Tensor, cutoff: float, sharpness: float) -> Tensor:
    """x without its low frequencies, by the orthonormal cosine transform of each channel."""
    height, width = x.shape[-2:]
    rows, columns = (_cosines(side, x.dtype, x.device) for side in (height, width))
    u = torch.arange(height, dtype=x.dtype, device=x.device)[:, None] / height
    v = torch.arange(width, dtype=x.dtype, device=x.device) / width
    passed = torch.sigmoid(sharpness * ((u**2 + v**2).sqrt() - cutoff))
    return rows.T @ (passed * (rows @ x @ columns.T)) @ columns


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept, for use in any mode
def _cosines(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal cosine transform (DCT-II) as a matrix [frequency, place]."""
    places = torch.arange(size, dtype=dtype, device=device)
    found = torch.cos(math.pi / size * (places + 0.5) * places[:, None]) * math.sqrt(2 / size)
    return torch.where(places[:, None] == 0, found / math.sqrt(2), found)
