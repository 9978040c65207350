"""Families of metrics: what is computed from features, whichever detector gave them.

The values are torch-fidelity's (but for the Frechet distances, which are ours), each with a block-jackknife
standard error; the jackknife leaves out one of `num_groups` contiguous groups of seeds at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.frechet import distances_without_groups, infinity_without_groups
from erk_bench.evaluation.measured import Extracted, Family, Measured, features_of, target_of
from erk_bench.evaluation.needs import (
    NEIGHBORHOOD,
    NUM_SPLITS,
    SHUFFLE_SEED,
    kernel_lack,
    mind_lack,
    neighbours_lack,
    refuse_lack,
    splits_lack,
    splits_of,
    subsets_lack,
)
from erk_bench.evaluation.neighbours import precision_recall_without_groups, unbiased_kernel_distances
from erk_bench.evaluation.reference_files import Real
from erk_bench.evaluation.sliced import mind
from erk_bench.spec import MetricsSpec


def frechet(images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec) -> dict[str, Measured]:
    """Frechet distance of the features' Gaussians."""
    value, replicates = distances_without_groups(images.features, groups, spec.num_groups, target_of(real))
    return {"frechet": Measured(value, tuple(replicates))}


def frechet_infinity(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """Frechet distance extrapolated to infinitely many images (arXiv 1911.07023)."""
    value, replicates = infinity_without_groups(images.features, groups, spec.num_groups, target_of(real))
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
    "mind": Family("MIND", mind, "mind", "features", lower=True, lack=mind_lack),
}
