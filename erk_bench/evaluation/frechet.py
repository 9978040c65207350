"""The Frechet distance between two Gaussians, and the statistics it is computed from.

All of it is float64 through SciPy's BLAS and LAPACK, which compute half of a symmetric matrix in half the
time. One library alone: the threads of two, such as SciPy's and torch's, wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import blas, lapack
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.frechet_gpu import distances_on

NUM_SIZES = 5  # subsets for the distance at infinity
SMALLEST_PART = 0.1  # of all images, in the smallest of them: 5,000 of 50,000 (arXiv 1911.07023)
PERMUTATION_SEED = 2020
ROWS = 1_000  # features widened to float64 at a time, at least
WIDENED = 2**19  # numbers widened at a time, where that is more rows: they stay in a core's cache
SMALL = 128  # dimensions up to which two whole products are faster than half of one
BLOCKS = 64  # columns of LAPACK's blocks

Array = NDArray[np.float64]


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
        values = features.numpy()
        size = values.shape[1]
        rows = max(ROWS, WIDENED // max(size, 1))
        total, lower = np.zeros(size), np.zeros((size, size), order="F")
        for start in range(0, len(values), rows):
            wide = values[start : start + rows].astype(np.float64)
            total += wide.sum(0)
            lower = blas.dsyrk(1.0, wide.T, beta=1.0, c=lower, lower=1, overwrite_c=1)
        return cls(len(values), torch.from_numpy(total), torch.from_numpy(_symmetric(lower)))

    def __add__(self, other: FeatureSums) -> FeatureSums:
        return FeatureSums(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def __sub__(self, other: FeatureSums) -> FeatureSums:
        return FeatureSums(self.count - other.count, self.total - other.total, self.outer - other.outer)

    def stats(self) -> FeatureStats:
        """Mean and covariance; needs at least two samples."""
        if self.count < 2:
            raise UserError(f"{self.count} images give no covariance; use at least 2 seeds")
        degrees = self.count - 1
        mean = self.total / self.count
        covariance = np.multiply.outer(self.total.numpy(), mean.numpy() / -degrees)
        covariance += self.outer.numpy() / degrees
        return FeatureStats(mean, torch.from_numpy(covariance))


class FrechetTarget:
    """The side that many distances share: checked and factored once."""

    def __init__(self, stats: FeatureStats, device: torch.device | None = None) -> None:
        """Mean [D] and covariance [D, D], float64. Raises UserError for values that are not finite.

        device: where the distances of many images are computed; None is the CPU.
        """
        for name, value in (("mean", stats.mean), ("covariance", stats.covariance)):
            if not np.isfinite(value.numpy()).all():
                raise UserError(f"the reference's {name} holds values that are not finite; make it again")
        self.stats = stats
        self.device = device

    @cached_property
    def _factor(self) -> Array:
        """A [D, R] with A A^T = covariance, of the covariance's rank R; lower triangular where that is D."""
        covariance = self.stats.covariance.numpy().T  # the same matrix in LAPACK's order of memory
        factor, failed = lapack.dpotrf(covariance, lower=1)
        if not failed:
            return _array(factor)
        # Fewer images than dimensions, or constant features: pivoting stops where only rounding is left.
        factor, pivots, rank, _ = lapack.dpstrf(covariance, lower=1)
        unpivoted = np.zeros((len(factor), max(rank, 1)), order="F")  # LAPACK refuses matrices of no columns
        unpivoted[pivots - 1, :rank] = np.tril(factor)[:, :rank]
        return unpivoted

    def distance(self, stats: FeatureStats) -> float:
        """Frechet distance of `stats` (same D, finite): the eigenvalues of A^T covariance A are wanted."""
        covariance, factor = stats.covariance.numpy().T, self._factor
        if factor.shape[1] < len(factor) or len(factor) <= SMALL:
            inner = factor.T @ (covariance @ factor)
        else:
            inner, failed = lapack.dsygst(covariance, factor, itype=2, lower=1)
            assert not failed  # only arguments can be wrong
        return self._sum(stats.mean.numpy(), np.trace(covariance), inner)

    def distances_of_few(self, features: Tensor, kept: Iterable[Tensor]) -> list[float]:
        """Distances of subsets of features [n, D], each subset a bool mask [n].

        With centred rows X of m images, the eigenvalues of A^T X^T X A are those of X A A^T X^T, an m x m
        matrix: cheap for m below D, where the D x D product is singular besides.
        """
        centred = features.numpy().astype(np.float64)
        offset = centred.mean(0)
        centred -= offset
        factor = self._factor
        if factor.shape[1] < len(factor):
            half = (centred @ factor).T
        else:
            half = blas.dtrmm(1.0, factor, centred.T, lower=1, trans_a=1)  # A^T X^T
        products = _symmetric(blas.dsyrk(1.0, half, trans=1, lower=1))
        squares = np.einsum("nd,nd->n", centred, centred)
        found = []
        for mask in kept:
            rows = np.flatnonzero(mask.numpy())
            scale = 1 / (len(rows) - 1)
            mean = centred[rows].mean(0)
            inner = products[np.ix_(rows, rows)]
            of_row = inner.mean(0)
            inner += of_row.mean() - of_row - of_row[:, None]  # about their own mean
            inner *= scale
            trace = scale * (squares[rows].sum() - len(rows) * mean @ mean)
            found.append(self._sum(mean + offset, trace, inner.T))
        return found

    def _sum(self, mean: Array, trace: float, inner: Array) -> float:
        """The distance, from the matrix whose eigenvalues' roots are wanted; only its lower half is read."""
        gap = mean - self.stats.mean.numpy()
        roots = np.sqrt(_eigenvalues(inner).clip(min=0)).sum()
        return float(gap @ gap + trace + np.trace(self.stats.covariance.numpy()) - 2 * roots)


def _eigenvalues(symmetric: Array) -> Array:
    """Of a symmetric matrix [n, n] of which the lower half is read; its memory is used up."""
    size = len(symmetric)
    found, _, failed = lapack.dsyevd(
        symmetric, compute_v=0, lower=1, lwork=(BLOCKS + 2) * size + 1, overwrite_a=1
    )
    assert not failed  # of finite values; it has no steps to run out of
    return _array(found)


def _symmetric(lower: Array) -> Array:
    """The whole matrix, in C's order of memory, of the lower half of one in LAPACK's."""
    whole = lower.T
    size, step = len(whole), 256
    for start in range(0, size, step):
        rows = slice(start, min(start + step, size))
        whole[rows.stop :, rows] = whole[rows, rows.stop :].T
        block = whole[rows, rows]
        block[...] = np.triu(block) + np.triu(block, 1).T
    return whole


def _array(values: Any) -> Array:
    """SciPy's functions have no types."""
    return np.asarray(values, dtype=np.float64)


def frechet_distance(mu1: ArrayLike, sigma1: ArrayLike, mu2: ArrayLike, sigma2: ArrayLike) -> float:
    """|mu1 - mu2|^2 + tr(sigma1 + sigma2 - 2 (sigma1 sigma2)^(1/2)), in float64 (arXiv 1706.08500, eq. 6).

    mu [D], sigma [D, D]: arrays or tensors. With sigma2 = A A^T the trace term is the sum of the square
    roots of the eigenvalues of A^T sigma1 A; A is a Cholesky factor, of fewer columns where sigma2 is
    singular (fewer images than dimensions).
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
    if target.device is not None and target.device.type == "cuda":
        stats = target.stats
        value, *replicates = distances_on(
            target.device, features, groups, num_groups, stats.mean, stats.covariance
        )
        return value, replicates
    # A group's sums are made once more: keeping those of 50 groups at D = 2048 would take 1.7 GB.
    whole = FeatureSums.of(features)
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
    features: Tensor,
    groups: Tensor,
    num_groups: int,
    target: FrechetTarget,
    subsets: Sequence[Tensor] | None = None,
) -> tuple[float, list[float]]:
    """The Frechet distance of infinitely many images (arXiv 1911.07023), and that without each group.

    Distances of five nested subsets (N/10 to N images), or of `subsets` (indices of images), are fitted by a
    straight line in 1/N; its intercept is the result. A group leaves every subset at once. Below about D
    images the distance is no straight line in 1/N: use at least 10 D images. The cost is five times that of
    `distances_without_groups`, at 50 groups and D = 2048 about eight minutes on two cores; more subsets cost
    in proportion and help little, being nested (15 instead of 5 narrow the spread over seeds by 4%).
    """
    columns_x, columns_y = [], []
    for subset in nested_subsets(groups, num_groups) if subsets is None else subsets:
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
