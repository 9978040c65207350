"""The Frechet distance between two Gaussians, and the statistics it is computed from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from erk_bench.base.errors import UserError

NUM_SIZES = 5  # subsets for the distance at infinity
SMALLEST_PART = 0.1  # of all images, in the smallest of them: 5,000 of 50,000 (arXiv 1911.07023)
PERMUTATION_SEED = 2020
ROWS = 10_000  # features widened to float64 at a time
LARGE = 512  # dimensions from which SciPy's LAPACK pays: its threads and torch's wait for each other (8 ms)


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
        size = features.shape[1]
        sums = cls(0, torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64))
        for part in features.split(ROWS):
            wide = part.double()
            sums += cls(len(wide), wide.sum(0), wide.T @ wide)
        return sums

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


class FrechetTarget:
    """The side that many distances share: checked and factored once."""

    def __init__(self, stats: FeatureStats) -> None:
        """Mean [D] and covariance [D, D], float64. Raises UserError for values that are not finite."""
        for name, value in (("mean", stats.mean), ("covariance", stats.covariance)):
            if not value.isfinite().all():
                raise UserError(f"the reference's {name} holds values that are not finite; make it again")
        self.stats = stats

    @cached_property
    def _factor(self) -> tuple[Tensor, bool]:
        """A [D, D] with A A^T = covariance, and whether it is lower triangular."""
        factor, failed = torch.linalg.cholesky_ex(self.stats.covariance)
        if not failed:
            return factor, True
        eigenvalues, vectors = torch.linalg.eigh(self.stats.covariance)
        return vectors * eigenvalues.clip(min=0).sqrt(), False

    def distance(self, stats: FeatureStats) -> float:
        """Frechet distance of `stats` (same D, finite): the eigenvalues of A^T covariance A are wanted."""
        factor, triangular = self._factor
        if triangular and len(stats.mean) >= LARGE:
            # Half the work of two products, and only the lower half of the result.
            inner, failed = scipy.linalg.lapack.dsygst(
                stats.covariance.numpy(), factor.numpy(), itype=2, lower=1
            )
            assert not failed  # only arguments can be wrong
            found = scipy.linalg.eigvalsh(inner, lower=True, overwrite_a=True, check_finite=False)
            eigenvalues = torch.from_numpy(found)
        else:
            inner = factor.T @ stats.covariance @ factor
            eigenvalues = torch.linalg.eigvalsh((inner + inner.T) / 2)
        return self._sum(stats.mean, stats.covariance.trace(), eigenvalues)

    def distances_of_few(self, features: Tensor, kept: Iterable[Tensor]) -> list[float]:
        """Distances of subsets of features [n, D], each subset a bool mask [n].

        With centred rows X of m images, the eigenvalues of A^T X^T X A are those of X S X^T, an m x m matrix:
        cheap for m below D, where the D x D product is singular besides.
        """
        offset = features.double().mean(0)
        centred = features.double() - offset
        products = centred @ self.stats.covariance @ centred.T
        found = []
        for mask in kept:
            rows = centred[mask]
            scale = 1 / (len(rows) - 1)
            mean = rows.mean(0)
            inner = products[mask][:, mask]
            inner = inner - inner.mean(0) - inner.mean(1, keepdim=True) + inner.mean()  # about their own mean
            trace = (rows - mean).square().sum() * scale
            eigenvalues = torch.linalg.eigvalsh((inner + inner.T) / 2 * scale)
            found.append(self._sum(mean + offset, trace, eigenvalues))
        return found

    def _sum(self, mean: Tensor, trace: Tensor, eigenvalues: Tensor) -> float:
        roots = eigenvalues.clip(min=0).sqrt()
        gap = (mean - self.stats.mean).square().sum()
        return float(gap + trace + self.stats.covariance.trace() - 2 * roots.sum())


def frechet_distance(mu1: ArrayLike, sigma1: ArrayLike, mu2: ArrayLike, sigma2: ArrayLike) -> float:
    """|mu1 - mu2|^2 + tr(sigma1 + sigma2 - 2 (sigma1 sigma2)^(1/2)), in float64 (arXiv 1706.08500, eq. 6).

    mu [D], sigma [D, D]: arrays or tensors. With sigma2 = A A^T the trace term is the sum of the square
    roots of the eigenvalues of A^T sigma1 A; A is a Cholesky factor, or comes from the eigenvectors when a
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
    return FrechetTarget(FeatureStats(m2, s2)).distance(FeatureStats(m1, s1))


def distances_without_groups(
    features: Tensor, groups: Tensor, num_groups: int, target: FrechetTarget
) -> tuple[float, list[float]]:
    """The Frechet distance of features [N, D] to `target`, and that without each group.

    groups: int64 [N], from 0 to num_groups - 1; each must leave at least two images. Cost at 50 groups and
    D = 2048: 51 eigenvalue problems and products, on two cores under two minutes; memory a few D x D.
    """
    if len(features) <= features.shape[1]:
        masks = [torch.ones_like(groups, dtype=torch.bool), *(groups != g for g in range(num_groups))]
        value, *replicates = target.distances_of_few(features, masks)
        return value, replicates
    # A group's sums are made twice: keeping those of 50 groups at D = 2048 would take 1.7 GB.
    whole = FeatureSums.of(features[groups == 0])
    for group in range(1, num_groups):
        whole += FeatureSums.of(features[groups == group])
    rests = (whole - FeatureSums.of(features[groups == group]) for group in range(num_groups))
    return target.distance(whole.stats()), [target.distance(rest.stats()) for rest in rests]


def nested_subsets(groups: Tensor, num_groups: int) -> list[Tensor]:
    """Prefixes of one fixed permutation of the images, as indices: N/10, ..., N of them, evenly spaced.

    Raises UserError if the smallest has fewer than two images left without some group.
    """
    count = len(groups)
    order = torch.from_numpy(np.random.RandomState(PERMUTATION_SEED).permutation(count))
    sizes = np.linspace(SMALLEST_PART * count, count, NUM_SIZES).round().astype(int).tolist()
    subsets = [order[:size] for size in sizes]
    fewest = sizes[0] - int(groups[subsets[0]].bincount(minlength=num_groups).max())
    if fewest < 2:
        raise UserError(
            f"{count} images are too few for the Frechet distance at infinity: of its smallest subset of "
            f"{sizes[0]} images {fewest} are left without some jackknife group, and 2 are needed"
        )
    return subsets


def infinity_without_groups(
    features: Tensor, groups: Tensor, num_groups: int, target: FrechetTarget
) -> tuple[float, list[float]]:
    """The Frechet distance of infinitely many images (arXiv 1911.07023), and that without each group.

    Distances of five nested subsets (N/10 to N images) are fitted by a straight line in 1/N; its intercept
    is the result. A group leaves every subset at once. Below about D images the distance is no straight line
    in 1/N: use at least 10 D images. The cost is five times that of `distances_without_groups`, at 50 groups
    and D = 2048 about eight minutes on two cores; more subsets cost in proportion and help little, being
    nested (15 instead of 5 narrow the spread over seeds by 4%).
    """
    columns_x, columns_y = [], []
    for subset in nested_subsets(groups, num_groups):
        of = groups[subset]
        left = len(subset) - of.bincount(minlength=num_groups)
        value, replicates = distances_without_groups(features[subset], of, num_groups, target)
        columns_x.append([1 / len(subset), *(1 / left.double()).tolist()])
        columns_y.append([value, *replicates])
    x, y = np.array(columns_x), np.array(columns_y)  # [sizes, 1 + num_groups]
    from_mean = x - x.mean(0)
    slope = (from_mean * y).sum(0) / (from_mean**2).sum(0)
    whole, *rests = (y.mean(0) - slope * x.mean(0)).tolist()
    return whole, rests


def _float64(value: ArrayLike) -> Tensor:
    if isinstance(value, Tensor):
        return value.double()
    return torch.from_numpy(np.asarray(value, dtype=np.float64))
