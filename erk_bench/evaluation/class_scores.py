"""Inception Scores (arXiv 1606.03498): how sure and how varied the classes of a set of images are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.measured import Extracted, Measured
from erk_bench.evaluation.needs import (
    NUM_SPLITS,
    SHUFFLE_SEED,
    adm_splits_lack,
    adm_splits_of,
    refuse_lack,
    splits_lack,
    splits_of,
)
from erk_bench.evaluation.reference_files import Real
from erk_bench.spec import MetricsSpec

ROWS = 10_000  # images whose probabilities are held in float64 at a time


def inception_score(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """Inception Score of the class logits: mean over torch-fidelity's 10 shuffled splits.

    Without a group, each image stays in the split that it has in the whole set. Needs no real images.
    """
    logits = _logits_of(images)
    refuse_lack(spec, splits_lack, len(logits))
    _, replicates = scores_without_groups(logits, splits_of(len(logits)), groups, spec.num_groups)
    return {"inception_score": Measured(_score(logits), tuple(replicates))}


def adm_inception_score(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """Inception Score as ADM's evaluator has it: splits of 5,000 images in their order, the last one shorter.

    Each split counts the same. Without a group, each image stays in its split.
    """
    logits = _logits_of(images)
    refuse_lack(spec, adm_splits_lack, len(logits))
    value, replicates = scores_without_groups(logits, adm_splits_of(len(logits)), groups, spec.num_groups)
    return {"inception_score": Measured(value, tuple(replicates))}


def scores_without_groups(
    logits: Tensor, split: Tensor, groups: Tensor, num_groups: int
) -> tuple[float, list[float]]:
    """Mean over splits of exp(mean KL of an image's classes to the split's), and that without each group.

    logits [N, K]; split, groups int64 [N]. No split may be empty without a group. One pass: sums of
    probabilities by split and group, float64.
    """
    num_splits = int(split.max()) + 1
    cell = split * num_groups + groups
    cells, shape = num_splits * num_groups, (num_splits, num_groups)
    number = cell.bincount(minlength=cells).double().reshape(shape)
    sums = torch.zeros(cells, logits.shape[1], dtype=torch.float64)
    gains = torch.zeros(cells, dtype=torch.float64)
    for part, of in zip(logits.split(ROWS), cell.split(ROWS), strict=True):
        log_p = part.double().log_softmax(dim=1)
        p = log_p.exp()
        sums.index_add_(0, of, p)
        gains.index_add_(0, of, (p * log_p).sum(1))
    total, negentropy = sums.reshape(*shape, -1), gains.reshape(shape)

    def score(number: Tensor, total: Tensor, negentropy: Tensor) -> Tensor:
        # Of a class that only the left group has, rounding may leave a little less than nothing.
        mean = (total / number[..., None]).clamp(min=0)
        return (negentropy / number - torch.xlogy(mean, mean).sum(-1)).exp().mean(0)

    all_of = [each.sum(1, keepdim=True) for each in (number, total, negentropy)]
    rests = [each - part for each, part in zip(all_of, (number, total, negentropy), strict=True)]
    return float(score(*all_of)), score(*rests).tolist()


def _logits_of(images: Extracted) -> Tensor:
    if images.logits is None:
        raise UserError(
            "the Inception Score needs class logits, and this metric's detector gives none; leave it out of "
            "metrics.names"
        )
    return images.logits


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
