"""Frechet distances on a GPU: by torch, in float64, for more images than dimensions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class _Sums(NamedTuple):
    """Number, sum [D] and sum of outer products [D, D] of features, float64 on the GPU."""

    num_images: int
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> _Sums:
        wide = features.double()
        return cls(len(wide), wide.sum(0), wide.T @ wide)

    def without(self, other: _Sums) -> _Sums:
        return _Sums(self.num_images - other.num_images, self.total - other.total, self.outer - other.outer)


@torch.inference_mode()
def distances_on(
    device: torch.device,
    features: Tensor,
    groups: Tensor,
    num_groups: int,
    mean: Tensor,
    covariance: Tensor,
) -> list[float]:
    """The distance of features [N, D] to a Gaussian, and that without each group.

    groups: int64 [N], from 0 to num_groups - 1. mean [D], covariance [D, D]: of the Gaussian, float64. All
    are on the CPU. The values are those of `frechet` but for rounding. The host waits for the copies, for
    whether the Gaussian is singular, and for the values, but for no group.
    """
    own = groups.to(device)
    # Sorted by group, so that a group is a slice: a mask would make the host wait for its size.
    values = features.to(device)[own.argsort(stable=True)]
    sizes = groups.bincount(minlength=num_groups).tolist()
    parts = values.split(sizes) if num_groups else (values,)
    mean, covariance = mean.to(device), covariance.to(device)
    factor = _factor(covariance)
    # A group's sums are made twice: keeping those of 50 groups at D = 2048 would take 1.7 GB.
    whole = _Sums(0, torch.zeros_like(mean), torch.zeros_like(covariance))
    for part in parts:
        sums = _Sums.of(part)
        whole = _Sums(whole.num_images + sums.num_images, whole.total + sums.total, whole.outer + sums.outer)
    rests = (whole.without(_Sums.of(part)) for part in parts[:num_groups])
    found = [_distance(each, mean, covariance, factor) for each in (whole, *rests)]
    return torch.stack(found).tolist()


def _factor(covariance: Tensor) -> Tensor:
    """A with A A^T = covariance; of a singular one by its eigenvalues."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()


def _distance(sums: _Sums, mean: Tensor, covariance: Tensor, factor: Tensor) -> Tensor:
    own_mean = sums.total / sums.num_images
    own = (sums.outer - sums.num_images * own_mean.outer(own_mean)) / (sums.num_images - 1)
    roots = torch.linalg.eigvalsh(factor.T @ own @ factor).clamp(min=0).sqrt().sum()
    gap = own_mean - mean
    return gap @ gap + own.trace() + covariance.trace() - 2 * roots
