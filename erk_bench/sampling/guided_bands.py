"""Frequency-decoupled guidance: a weight for each level of a Laplacian pyramid, and the pyramid."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.transfers import to_device
from erk_bench.sampling.guided import Denoiser, Interval, share_along, within

BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def fdg(
    main: Denoiser,
    guiding: Denoiser,
    weight: float,
    interval: Interval,
    levels: Sequence[float],
    *,
    coarse: tuple[float, ...] = (1.2,),
    parallel: tuple[float, ...] = (),
) -> Denoiser:
    """Frequency-decoupled guidance (arXiv 2506.19713): D_g + weight (D_m - D_g) in each band on its own.

    The bands are the levels of a Laplacian pyramid: `weight` is of the finest, `coarse` has those of the
    others, the finer first. parallel: of each band, the finest first, how much is kept of the part of
    D_m - D_g along D_m; none given is all of it. One weight everywhere is classifier-free guidance.
    """
    weights = (weight, *coarse)
    if parallel and len(parallel) != len(weights):
        raise UserError(
            f"guidance.parallel has {len(parallel)} values; with guidance.coarse={list(coarse)} there are "
            f"{len(weights)} bands: give a value for each, or none"
        )

    def combine(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
        bands = laplacian_pyramid(denoised - other, len(weights))
        if parallel:
            along = laplacian_pyramid(denoised, len(weights))
            bands = [
                band + (kept - 1) * share_along(band, own) * own
                for band, own, kept in zip(bands, along, parallel, strict=True)
            ]
        scaled = [each * band for each, band in zip(weights, bands, strict=True)]
        return other + from_pyramid(scaled)[..., : x.shape[-2], : x.shape[-1]]

    return within(interval, main, guiding, combine)


def laplacian_pyramid(x: Tensor, num_levels: int) -> list[Tensor]:
    """Levels [B, C, H / 2^k, W / 2^k] of an image, the finest first, each what the next ones do not hold.

    As kornia's: where no side is a power of two, or one cannot be halved often enough, both sides are
    reflected to the next power of two, right and bottom. Raises UserError for images too small.
    """
    sides = x.shape[-2:]
    halvings = num_levels - 1
    powers = [1 << (side - 1).bit_length() for side in sides]
    if any(side % (1 << halvings) for side in sides) or all(map(int.__ne__, sides, powers)):
        x = F.pad(x, (0, powers[1] - sides[1], 0, powers[0] - sides[0]), mode="reflect")
    if halvings and min(x.shape[-2:]) < 2 << halvings:
        raise UserError(
            f"images of {sides[0]} x {sides[1]} are too small for the {num_levels} bands of guidance 'fdg', "
            "whose coarsest has 2 pixels a side or more; give guidance.coarse fewer values"
        )
    found = []
    for _ in range(halvings):
        smaller = _along_both(x, _halving)
        found.append(x - _along_both(smaller, _doubling))
        x = smaller
    return [*found, x]


def from_pyramid(bands: Sequence[Tensor]) -> Tensor:
    """The image of a Laplacian pyramid."""
    x = bands[-1]
    for band in reversed(bands[:-1]):
        x = _along_both(x, _doubling) + band
    return x


def _along_both(x: Tensor, matrix: Callable[[int, torch.dtype, torch.device], Tensor]) -> Tensor:
    height, width = (matrix(side, x.dtype, x.device) for side in x.shape[-2:])
    return height @ x @ width.T


def _blurring(size: int) -> Tensor:
    """The binomial filter of width 5 as a matrix [size, size], float64; edges are reflected."""
    padded = F.pad(torch.eye(size, dtype=torch.float64), (2, 2), mode="reflect")
    return sum((share * padded[:, at : at + size] for at, share in enumerate(BINOMIAL)), torch.zeros(())).T


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept, for use in any mode
def _halving(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Blur, then the mean of each two neighbours: a matrix [size / 2, size]."""
    blurred = _blurring(size)
    return to_device(((blurred[::2] + blurred[1::2]) / 2).to(dtype), device)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept, for use in any mode
def _doubling(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Linear interpolation to twice as many points, whose pairs surround the old ones, then blur."""
    one = torch.eye(size, dtype=torch.float64)
    before, after = torch.cat([one[:1], one[:-1]]), torch.cat([one[1:], one[-1:]])
    twice = torch.stack([0.75 * one + 0.25 * before, 0.75 * one + 0.25 * after], dim=1).flatten(0, 1)
    return to_device((_blurring(2 * size) @ twice).to(dtype), device)
