"""Families of metrics: what is computed from features, whichever detector gave them.

The values are torch-fidelity's (but for the Frechet distances, which are ours), each with a block-jackknife
standard error; the jackknife leaves out one of `num_groups` contiguous groups of seeds at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.frechet import (
    FeatureSums,
    FrechetTarget,
    distances_without_groups,
    infinity_without_groups,
)
from erk_bench.evaluation.needs import (
    NEIGHBORHOOD,
    NUM_SPLITS,
    SHUFFLE_SEED,
    Lack,
    check_sizes,
    groups_of,
    kernel_lack,
    neighbours_lack,
    refuse_lack,
    splits_lack,
    splits_of,
    subsets_lack,
)
from erk_bench.evaluation.neighbours import precision_recall_without_groups, unbiased_kernel_distances
from erk_bench.evaluation.reference_files import Real
from erk_bench.spec import MetricsSpec


class Extracted(NamedTuple):
    """Features [N, D] and class logits [N, K] (None if the detector has none) of N images in seed order.

    Both float32, on the CPU, finite.
    """

    features: Tensor
    logits: Tensor | None = None


class Measured(NamedTuple):
    """A metric's value and its leave-one-group-out values."""

    value: float
    replicates: tuple[float, ...]

    @property
    def standard_error(self) -> float:
        """Of the value, over the choice of seeds (the reference set is taken as fixed)."""
        return jackknife_error(self.replicates)


def jackknife_error(replicates: Sequence[float]) -> float:
    """Standard error from leave-one-group-out values of equal groups (Efron and Stein 1981)."""
    count = len(replicates)
    mean = math.fsum(replicates) / count
    return math.sqrt((count - 1) / count * math.fsum((x - mean) ** 2 for x in replicates))


def split_groups(count: int, num_groups: int) -> Tensor:
    """Group number of each of `count` images, int64: contiguous, sizes differing by one at most."""
    if count < 2 * num_groups:
        names = MetricsSpec(names=("-",), reference="-", num_groups=num_groups)
        check_sizes(names, [], count)
    return groups_of(count, num_groups)


def frechet(images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec) -> dict[str, Measured]:
    """Frechet distance of the features' Gaussians."""
    value, replicates = distances_without_groups(images.features, groups, spec.num_groups, _target(real))
    return {"frechet": Measured(value, tuple(replicates))}


def frechet_infinity(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """Frechet distance extrapolated to infinitely many images (arXiv 1911.07023)."""
    value, replicates = infinity_without_groups(images.features, groups, spec.num_groups, _target(real))
    return {"infinity": Measured(value, tuple(replicates))}


def precision_recall(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """Improved precision and recall (arXiv 1904.06991), k = 3."""
    real_features = features_of(real)
    refuse_lack(spec, neighbours_lack, len(groups), len(real_features))
    found = precision_recall_without_groups(
        images.features, real_features, groups, spec.num_groups, NEIGHBORHOOD
    )
    return {
        "precision": Measured(found.precision, tuple(found.precisions)),
        "recall": Measured(found.recall, tuple(found.recalls)),
    }


def kernel_distance(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """KID (arXiv 1801.01401): mean of torch-fidelity's random subsets, cubic polynomial kernel.

    The replicates are of the unbiased estimate over all images, of which the subsets' mean is a noisier copy.
    """
    real_features = features_of(real)
    refuse_lack(spec, kernel_lack, len(images.features), len(real_features))
    from torch_fidelity.metric_kid import kid_features_to_metric  # here: it takes seconds to import

    value = kid_features_to_metric(
        images.features,
        real_features,
        kid_subsets=spec.kid_subsets,
        kid_subset_size=spec.kid_subset_size,
        rng_seed=SHUFFLE_SEED,
        verbose=False,
    )["kernel_inception_distance_mean"]
    distances = unbiased_kernel_distances(images.features, real_features, groups, spec.num_groups)
    return {"kid": Measured(float(value), tuple(distances))}


def inception_score(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """Inception Score (arXiv 1606.03498) of the class logits: mean over 10 shuffled splits.

    Without a group, each image stays in the split that it has in the whole set. Needs no real images.
    """
    if images.logits is None:
        raise UserError(
            "the Inception Score needs class logits, and this metric's detector gives none; leave it out of "
            "metrics.names"
        )
    count = len(images.logits)
    refuse_lack(spec, splits_lack, count)
    split = splits_of(count)
    log_p = images.logits.double().log_softmax(dim=1)
    p = log_p.exp()
    cell = split * spec.num_groups + groups
    cells = NUM_SPLITS * spec.num_groups
    shape = (NUM_SPLITS, spec.num_groups)
    number = cell.bincount(minlength=cells).double().reshape(shape)
    total = torch.zeros(cells, p.shape[1], dtype=torch.float64).index_add_(0, cell, p).reshape(*shape, -1)
    each = (p * log_p).sum(1)
    negentropy = torch.zeros(cells, dtype=torch.float64).index_add_(0, cell, each).reshape(shape)

    left = number.sum(1, keepdim=True) - number
    # Of a class that only the left group has, rounding may leave a little less than nothing.
    mean = ((total.sum(1, keepdim=True) - total) / left[..., None]).clamp(min=0)
    kl = (negentropy.sum(1, keepdim=True) - negentropy) / left - torch.xlogy(mean, mean).sum(-1)
    return {"inception_score": Measured(_score(images.logits), tuple(kl.exp().mean(0).tolist()))}


def _score(logits: Tensor) -> float:
    """torch-fidelity's Inception Score of class logits [N, K], bit for bit where it is a number.

    Where a class has probability 0 in a whole split, theirs is 0 times minus infinity; its limit is 0.
    """
    count = len(logits)
    order = np.random.RandomState(SHUFFLE_SEED).permutation(count)
    shuffled = logits[order].double()
    p, log_p = shuffled.softmax(dim=1), shuffled.log_softmax(dim=1)
    scores = []
    for index in range(NUM_SPLITS):
        part = slice(index * count // NUM_SPLITS, (index + 1) * count // NUM_SPLITS)
        mean = p[part].mean(dim=0)
        gain = p[part] * (log_p[part] - mean.log())
        scores.append(gain.where(mean > 0, 0.0).sum(dim=1).mean().exp().item())
    return float(np.mean(scores))


def features_of(real: Real | None) -> Tensor:
    """The real images' features, or the error that says how to get them."""
    if real is None or real.features is None:
        raise UserError(
            "the reference holds statistics only; make features with 'erk-bench reference "
            "keep_features=true' and set metrics.real_features=FILE, or leave these metrics out of "
            "metrics.names: precision, recall and KID need features"
        )
    return real.features


def _target(real: Real | None) -> FrechetTarget:
    """The real images' statistics, computed from their features where they are not given."""
    if real is not None and real.stats is not None:
        return FrechetTarget(real.stats)
    if real is not None and real.features is not None:
        return FrechetTarget(FeatureSums.of(real.features).stats())
    raise UserError("the reference holds no statistics; make some with 'erk-bench reference ...'")


Compute = Callable[[Extracted, Real | None, Tensor, MetricsSpec], dict[str, Measured]]
Needs = Literal["statistics", "features", "nothing"]


@dataclass(frozen=True)
class Family:
    """A row of FAMILIES: the result `part` of a function, whose `lower` values are better or not.

    needs: of the real images; features give the statistics too. lack: what too few images lack (every family
    needs two for each jackknife group). logits: whether the detector must give class logits.
    """

    title: str
    compute: Compute
    part: str
    needs: Needs
    lower: bool
    lack: Lack | None = None
    logits: bool = False


FAMILIES: dict[str, Family] = {
    "fd": Family("FD", frechet, "frechet", "statistics", lower=True),
    "fd_infinity": Family("FD∞", frechet_infinity, "infinity", "statistics", lower=True, lack=subsets_lack),
    "precision": Family(
        "precision", precision_recall, "precision", "features", lower=False, lack=neighbours_lack
    ),
    "recall": Family("recall", precision_recall, "recall", "features", lower=False, lack=neighbours_lack),
    "kid": Family("KID", kernel_distance, "kid", "features", lower=True, lack=kernel_lack),
    "is": Family(
        "IS", inception_score, "inception_score", "nothing", lower=False, lack=splits_lack, logits=True
    ),
}
