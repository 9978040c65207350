"""The Frechet distance between two Gaussians, and the statistics it is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from erk_bench.errors import UserError


@dataclass(frozen=True)
class FeatureStats:
    """Mean [D] and covariance [D, D] (divided by n - 1) of features, float64."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class FeatureSums:
    """Additive statistics: count, sum of features [D] and of their outer products [D, D], float64.

    Sums of disjoint sets add and subtract, so blocks merge and jackknife groups drop out exactly.
    """

    count: int
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> FeatureSums:
        """Sums over features [N, D]."""
        wide = features.double()
        return cls(len(wide), wide.sum(0), wide.T @ wide)

    def __add__(self, other: FeatureSums) -> FeatureSums:
        return FeatureSums(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def __sub__(self, other: FeatureSums) -> FeatureSums:
        return FeatureSums(self.count - other.count, self.total - other.total, self.outer - other.outer)

    def stats(self) -> FeatureStats:
        """Mean and covariance; needs at least two samples."""
        if self.count < 2:
            raise UserError(f"{self.count} images give no covariance; use at least 2 seeds")
        mean = self.total / self.count
        covariance = self.outer - self.count * torch.outer(mean, mean)
        return FeatureStats(mean, covariance / (self.count - 1))


def frechet_distance(mu1: ArrayLike, sigma1: ArrayLike, mu2: ArrayLike, sigma2: ArrayLike) -> float:
    """|mu1 - mu2|^2 + tr(sigma1 + sigma2 - 2 (sigma1 sigma2)^(1/2)), in float64 (arXiv 1706.08500, eq. 6).

    mu [D], sigma [D, D]: arrays or tensors. With sigma1 = A A^T the trace term is the sum of the square
    roots of the eigenvalues of A^T sigma2 A; A is a Cholesky factor, or comes from the eigenvectors when a
    covariance is singular (fewer images than dimensions).
    Raises UserError for shapes that do not match or values that are not finite.
    """
    m1, s1, m2, s2 = (_float64(value) for value in (mu1, sigma1, mu2, sigma2))
    if m1.ndim != 1 or m1.shape != m2.shape or not s1.shape == s2.shape == (len(m1), len(m1)):
        shapes = ", ".join(str(tuple(value.shape)) for value in (m1, s1, m2, s2))
        raise UserError(
            f"statistics of different size: mu1, sigma1, mu2, sigma2 have shapes {shapes}; "
            "both sides must come from the same detector"
        )
    for name, value in (("mu1", m1), ("sigma1", s1), ("mu2", m2), ("sigma2", s2)):
        if not value.isfinite().all():
            raise UserError(f"{name} holds values that are not finite; extract the features again")
    factor = _factor(s1)
    inner = factor.T @ s2 @ factor
    eigenvalues = torch.linalg.eigvalsh((inner + inner.T) / 2).clip(min=0)
    distance = (m1 - m2).square().sum() + s1.trace() + s2.trace() - 2 * eigenvalues.sqrt().sum()
    return float(distance)


def _factor(sigma: Tensor) -> Tensor:
    """A with A A^T = sigma."""
    factor, failed = torch.linalg.cholesky_ex(sigma)
    if not failed:
        return factor
    eigenvalues, vectors = torch.linalg.eigh(sigma)
    return vectors * eigenvalues.clip(min=0).sqrt()


def _float64(value: ArrayLike) -> Tensor:
    if isinstance(value, Tensor):
        return value.double()
    return torch.from_numpy(np.asarray(value, dtype=np.float64))
