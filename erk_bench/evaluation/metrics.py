"""Metrics computed from kept features, each with a block-jackknife standard error.

The values are torch-fidelity's (but for the Frechet distance, which is ours); the jackknife leaves out one of
`num_groups` contiguous groups of seeds at a time. Records keep the leave-one-out values, so that two runs
of the same seeds can be compared as pairs later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from erk_bench.errors import UserError, unknown_name
from erk_bench.evaluation.frechet import FeatureSums, frechet_distance
from erk_bench.spec import MetricsSpec

NEIGHBORHOOD = 3  # k of precision and recall (arXiv 1904.06991)
NUM_SPLITS = 10  # of the Inception Score
SHUFFLE_SEED = 2020  # torch-fidelity's default, for the splits and the KID subsets


class Extracted(NamedTuple):
    """Features [N, D] and class logits [N, K] of N images in seed order, float32."""

    features: Tensor
    logits: Tensor


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
        raise UserError(
            f"{count} images are too few for {num_groups} jackknife groups; use more seeds, or "
            f"metrics.num_groups={max(count // 2, 2)}"
        )
    sizes = [len(part) for part in np.array_split(np.arange(count), num_groups)]
    return torch.repeat_interleave(torch.arange(num_groups), torch.tensor(sizes))


def frechet(images: Extracted, real: Extracted, groups: Tensor, spec: MetricsSpec) -> dict[str, Measured]:
    """Frechet distance of the features' Gaussians; sums of the left-out group are subtracted."""
    target = FeatureSums.of(real.features).stats()
    parts = [FeatureSums.of(images.features[groups == g]) for g in range(spec.num_groups)]
    whole = sum(parts[1:], parts[0])

    def distance(sums: FeatureSums) -> float:
        stats = sums.stats()
        return frechet_distance(stats.mean, stats.covariance, target.mean, target.covariance)

    replicates = tuple(distance(whole - part) for part in parts)
    return {"frechet": Measured(distance(whole), replicates)}


def precision_recall(
    images: Extracted, real: Extracted, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """Improved precision and recall (arXiv 1904.06991), k = 3."""
    fewest = len(groups) - int(groups.bincount().max())
    if fewest <= NEIGHBORHOOD:
        raise UserError(
            f"without a jackknife group {fewest} of {len(groups)} images are left, too few for recall with "
            f"k = {NEIGHBORHOOD}; use more seeds"
        )
    value = prc_features_to_metric(
        images.features, real.features, prc_neighborhood=NEIGHBORHOOD, verbose=False
    )
    to_real = torch.cdist(images.features, real.features)
    real_radii = torch.cdist(real.features, real.features).kthvalue(NEIGHBORHOOD + 1).values
    inside = (to_real <= real_radii).any(dim=1).double()
    from_real = to_real.T.contiguous()
    own = torch.cdist(images.features, images.features)
    # The nearest images of each image, enough to find the k-th one after a group has left.
    nearest = own.topk(min(len(own), NEIGHBORHOOD + 1 + 16), largest=False)
    precisions, recalls = [], []
    for group in range(spec.num_groups):
        kept = groups != group
        precisions.append(inside[kept].mean().item())
        rank = kept[nearest.indices].cumsum(dim=1)
        found = rank >= NEIGHBORHOOD + 1
        radii = nearest.values.gather(1, found.int().argmax(dim=1, keepdim=True))[:, 0]
        for row in torch.nonzero(kept & ~found.any(dim=1)).flatten().tolist():
            radii[row] = own[row, kept].kthvalue(NEIGHBORHOOD + 1).values
        radii[~kept] = -1.0
        recalls.append((from_real <= radii).any(dim=1).double().mean().item())
    return {
        "precision": Measured(value["precision"], tuple(precisions)),
        "recall": Measured(value["recall"], tuple(recalls)),
    }


def kernel_distance(
    images: Extracted, real: Extracted, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """KID (arXiv 1801.01401): mean of torch-fidelity's random subsets, cubic polynomial kernel.

    The replicates are of the unbiased estimate over all images, of which the subsets' mean is a noisier copy.
    """
    smallest = min(len(images.features), len(real.features))
    if spec.kid_subset_size > smallest:
        raise UserError(
            f"metrics.kid_subset_size is {spec.kid_subset_size} but a set has only {smallest} images; "
            f"use more seeds, or metrics.kid_subset_size={smallest}"
        )
    value = kid_features_to_metric(
        images.features,
        real.features,
        kid_subsets=spec.kid_subsets,
        kid_subset_size=spec.kid_subset_size,
        rng_seed=SHUFFLE_SEED,
        verbose=False,
    )["kernel_inception_distance_mean"]
    x, y = images.features.double(), real.features.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / x.shape[1] + 1) ** 3

    count, num_real = len(x), len(y)
    yy = kernel(y, y)
    real_term = (yy.sum() - yy.diagonal().sum()) / (num_real * (num_real - 1))
    xx, xy = kernel(x, x), kernel(x, y).sum(dim=1)
    xx.fill_diagonal_(0)
    member = torch.nn.functional.one_hot(groups, spec.num_groups).double()
    between = member.T @ xx @ member  # sums of kernel values over pairs of groups
    cross = member.T @ xy
    left = count - member.sum(0)
    within = between.sum() - between.sum(0) - between.sum(1) + between.diagonal()
    distances = within / (left * (left - 1)) + real_term
    distances -= 2 * (cross.sum() - cross) / (left * num_real)
    return {"kid": Measured(float(value), tuple(distances.tolist()))}


def inception_score(
    images: Extracted, real: Extracted, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """Inception Score (arXiv 1606.03498) of the class logits: mean over 10 shuffled splits.

    Without a group, each image stays in the split that it has in the whole set.
    """
    value = isc_features_to_metric(images.logits, NUM_SPLITS, True, SHUFFLE_SEED)
    count = len(images.logits)
    order = torch.from_numpy(np.random.RandomState(SHUFFLE_SEED).permutation(count))
    split = torch.empty(count, dtype=torch.int64)
    for index in range(NUM_SPLITS):
        split[order[index * count // NUM_SPLITS : (index + 1) * count // NUM_SPLITS]] = index
    log_p = images.logits.double().log_softmax(dim=1)
    p = log_p.exp()
    cell = split * spec.num_groups + groups
    member = torch.nn.functional.one_hot(cell, NUM_SPLITS * spec.num_groups).double()
    shape = (NUM_SPLITS, spec.num_groups)
    number = member.sum(0).reshape(shape)
    total = (member.T @ p).reshape(*shape, -1)
    negentropy = (member.T @ (p * log_p).sum(1)).reshape(shape)

    left = number.sum(1, keepdim=True) - number
    if not left.all():
        raise UserError(
            f"of {count} images one of {NUM_SPLITS} splits has none left without some jackknife group; use "
            f"more seeds for the Inception Score, or more groups than metrics.num_groups={spec.num_groups}"
        )
    mean = (total.sum(1, keepdim=True) - total) / left[..., None]
    kl = (negentropy.sum(1, keepdim=True) - negentropy) / left - (mean * mean.log()).sum(-1)
    return {"inception_score": Measured(value["inception_score_mean"], tuple(kl.exp().mean(0).tolist()))}


Family = Callable[[Extracted, Extracted, Tensor, MetricsSpec], dict[str, Measured]]


@dataclass(frozen=True)
class Metric:
    """A row of METRICS: the family's result `part` for one detector; `lower` values are better or not."""

    title: str
    detector: str
    family: Family
    part: str
    lower: bool


# Names say the detector: figures of different detectors are different metrics.
METRICS: dict[str, Metric] = {
    "fd_digits": Metric("FD-digits", "digits", frechet, "frechet", lower=True),
    "precision_digits": Metric("precision", "digits", precision_recall, "precision", lower=False),
    "recall_digits": Metric("recall", "digits", precision_recall, "recall", lower=False),
    "kid_digits": Metric("KID-digits", "digits", kernel_distance, "kid", lower=True),
    "is_digits": Metric("IS-digits", "digits", inception_score, "inception_score", lower=False),
}


def detectors_of(names: Sequence[str]) -> list[str]:
    """The detectors that the named metrics need, each once."""
    for name in names:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    return list(dict.fromkeys(METRICS[name].detector for name in names))


def check_count(spec: MetricsSpec, count: int) -> None:
    """Refuse a number of images that is too small for the groups or the KID subsets."""
    split_groups(count, spec.num_groups)
    families = {METRICS[name].family for name in spec.names}
    if kernel_distance in families and spec.kid_subset_size > count:
        raise UserError(
            f"metrics.kid_subset_size is {spec.kid_subset_size} but there are only {count} images; use more "
            f"seeds, or metrics.kid_subset_size={count}"
        )


def measure(
    spec: MetricsSpec, images: Mapping[str, Extracted], real: Mapping[str, Extracted]
) -> dict[str, Measured]:
    """All metrics of `spec`, from the features of each detector."""
    detectors_of(spec.names)
    families: dict[tuple[Family, str], dict[str, Measured]] = {}
    measured = {}
    for name in spec.names:
        metric = METRICS[name]
        key = (metric.family, metric.detector)
        if key not in families:
            extracted = images[metric.detector]
            groups = split_groups(len(extracted.features), spec.num_groups)
            families[key] = metric.family(extracted, real[metric.detector], groups, spec)
        measured[name] = families[key][metric.part]
    return measured
