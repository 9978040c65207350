"""How typical each image is of the real ones, and the Frechet distance of each class."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.evaluation.frechet import FeatureSums, FrechetTarget, distances_without_groups
from erk_bench.evaluation.measured import Measured, split_groups
from erk_bench.evaluation.reference_files import Real

NEIGHBOURS = 3  # real images beside each
ROWS = 2_000  # images at a time
CLASS_GROUPS = 10  # jackknife groups of a class, which may have few images


class Typicality(NamedTuple):
    """distances [N] float32: to the real images. neighbours: the nearest real ones, int64 [N, NEIGHBOURS];
    None where only their statistics are known."""

    distances: Tensor
    neighbours: Tensor | None


def typicality(
    features: Tensor, real: Real, advance: Callable[[int], None] = lambda count: None
) -> Typicality:
    """How far images with features [N, D] are from the real ones.

    With features of the real images: the mean distance to the NEIGHBOURS nearest. With statistics only: the
    Mahalanobis distance to their Gaussian. advance: called with the number of images just done.
    """
    if real.features is None:
        assert real.stats is not None
        distances = _mahalanobis(features, real)
        advance(len(features))
        return Typicality(distances, None)
    count = min(NEIGHBOURS, len(real.features))
    nearest = []
    for part in features.split(ROWS):
        best = torch.full((len(part), 0), torch.inf)
        places = torch.zeros(len(part), 0, dtype=torch.int64)
        for first in range(0, len(real.features), ROWS):
            found = torch.cdist(part, real.features[first : first + ROWS])
            near = found.topk(min(count, found.shape[1]), largest=False)
            best, order = torch.cat([best, near.values], 1).topk(
                min(count, best.shape[1] + near.values.shape[1]), largest=False
            )
            places = torch.cat([places, near.indices + first], 1).gather(1, order)
        nearest.append((best.mean(1), places))
        advance(len(part))
    return Typicality(*(torch.cat(each) for each in zip(*nearest, strict=True)))


def _mahalanobis(features: Tensor, real: Real) -> Tensor:
    """In the directions in which the real images vary at all."""
    assert real.stats is not None
    values, vectors = torch.linalg.eigh(real.stats.covariance)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    whitened = (features.double() - real.stats.mean) @ (vectors[:, kept] / values[kept].sqrt())
    return whitened.square().sum(1).sqrt().float()


def class_distances(
    features: Tensor, labels: Tensor, real_features: Tensor, real_labels: Tensor
) -> dict[int, Measured]:
    """Frechet distance of each class [N, D] to the real images of the same class, with jackknife errors.

    Classes with fewer than 2 CLASS_GROUPS images, or fewer than two real ones, are left out. Few images make
    the distance large: compare classes of equal numbers only.
    """
    found = {}
    for label in labels.unique().tolist():
        mine, others = features[labels == label], real_features[real_labels == label]
        if len(mine) < 2 * CLASS_GROUPS or len(others) < 2:
            continue
        target = FrechetTarget(FeatureSums.of(others).stats())
        groups = split_groups(len(mine), CLASS_GROUPS)
        value, replicates = distances_without_groups(mine, groups, CLASS_GROUPS, target)
        found[int(label)] = Measured(value, tuple(replicates))
    return found
