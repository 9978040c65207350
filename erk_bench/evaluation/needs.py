"""How many images each metric needs, said before any of them is made, with a setting that would do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.frechet import nested_subsets
from erk_bench.evaluation.infinity import CF_SMALLEST, DGM_SEED, dgm_infinity_subsets, fewest_left
from erk_bench.spec import MetricsSpec

NEIGHBORHOOD = 3  # k of precision and recall (arXiv 1904.06991)
PRDC_NEIGHBORHOOD = 5  # k of density and coverage (arXiv 2002.09797)
NUM_SPLITS = 10  # of the Inception Score
ADM_SPLIT = 5_000  # images in a split of ADM's Inception Score
SHUFFLE_SEED = 2020  # torch-fidelity's default, for the splits and the KID subsets
DGM_SUBSET = 10_000  # images of each set, at most, that dgm-eval draws for its neighbours
MOST_TRIED = 2_000  # numbers of images, and of groups, among which an advice is looked for

# What a family of metrics lacks with so many images and real ones (None: not known), "" for nothing.
Lack = Callable[[MetricsSpec, int, int | None], str]


def groups_of(count: int, num_groups: int) -> Tensor:
    """Group number of each of `count` images, int64: contiguous, sizes differing by one at most."""
    sizes = [len(part) for part in np.array_split(np.arange(count), num_groups)]
    return torch.repeat_interleave(torch.arange(num_groups), torch.tensor(sizes))


def splits_of(count: int) -> Tensor:
    """Split of the Inception Score that each of `count` images is in, int64: torch-fidelity's."""
    order = torch.from_numpy(np.random.RandomState(SHUFFLE_SEED).permutation(count))
    split = torch.empty(count, dtype=torch.int64)
    for index in range(NUM_SPLITS):
        split[order[index * count // NUM_SPLITS : (index + 1) * count // NUM_SPLITS]] = index
    return split


def adm_splits_of(count: int) -> Tensor:
    """Split of ADM's Inception Score that each of `count` images is in, int64: in their order."""
    return torch.arange(count) // ADM_SPLIT


def dgm_subsets_of(num_real: int, count: int) -> tuple[Tensor, Tensor]:
    """Which real images and which images dgm-eval compares: as many of both, ascending, int64."""
    random = np.random.RandomState(DGM_SEED)
    size = min(DGM_SUBSET, num_real, count)
    kept_real, kept = (random.choice(number, size, replace=False) for number in (num_real, count))
    return torch.from_numpy(np.sort(kept_real)), torch.from_numpy(np.sort(kept))


def groups_lack(spec: MetricsSpec, count: int, real: int | None) -> str:
    """Every metric: two images for each jackknife group."""
    if count >= 2 * spec.num_groups:
        return ""
    return (
        f"{count} images are too few for {spec.num_groups} jackknife groups, which need {2 * spec.num_groups}"
    )


def neighbours_lack(spec: MetricsSpec, count: int, real: int | None) -> str:
    """Precision and recall: more than k images, also without any group, and more than k real ones."""
    return _too_few_neighbours(groups_of(count, spec.num_groups), real, NEIGHBORHOOD)


def prdc_lack(spec: MetricsSpec, count: int, real: int | None) -> str:
    """Density and coverage, and the precision and recall that come with them: the same for their k."""
    return _too_few_neighbours(groups_of(count, spec.num_groups), real, PRDC_NEIGHBORHOOD)


def dgm_prdc_lack(spec: MetricsSpec, count: int, real: int | None) -> str:
    """dgm-eval's: the same of the images that it draws."""
    _, kept = dgm_subsets_of(count if real is None else real, count)
    return _too_few_neighbours(groups_of(count, spec.num_groups)[kept], real, PRDC_NEIGHBORHOOD)


def _too_few_neighbours(groups: Tensor, real: int | None, neighborhood: int) -> str:
    if real is not None and real <= neighborhood:
        return (
            f"the reference has {real} images, too few for precision with k = {neighborhood}, which needs "
            f"{neighborhood + 1}"
        )
    fewest = len(groups) - int(groups.bincount().max())
    if fewest <= neighborhood:
        return (
            f"without a jackknife group {fewest} of {len(groups)} images are left, too few for recall with "
            f"k = {neighborhood}, which needs {neighborhood + 1}"
        )
    return ""


def mind_lack(spec: MetricsSpec, count: int, real: int | None) -> str:
    """MIND: of as many images as there are real ones, some left without any group."""
    largest = -(-count // spec.num_groups)
    if real is None or min(count, real) > largest:
        return ""
    return (
        f"the reference has {real} images, too few for MIND with jackknife groups of {largest}, which needs "
        f"{largest + 1}"
    )


def kernel_lack(spec: MetricsSpec, count: int, real: int | None) -> str:
    """KID: subsets no larger than either set."""
    for number, what in ((count, "there are only {} images"), (real, "the reference has only {} images")):
        if number is not None and spec.kid_subset_size > number:
            return f"metrics.kid_subset_size is {spec.kid_subset_size} but {what.format(number)}"
    return ""


def one_real_lack(spec: MetricsSpec, count: int, real: int | None) -> str:
    """KD: two real images."""
    return "the reference has one image, and KD needs 2" if real == 1 else ""


def splits_lack(spec: MetricsSpec, count: int, real: int | None) -> str:
    """Inception Score: no split empty, also without any group."""
    return _empty_split(spec, splits_of(count), NUM_SPLITS)


def adm_splits_lack(spec: MetricsSpec, count: int, real: int | None) -> str:
    """ADM's Inception Score: the same of its splits."""
    return _empty_split(spec, adm_splits_of(count), -(-count // ADM_SPLIT))


def _empty_split(spec: MetricsSpec, split: Tensor, num_splits: int) -> str:
    cells = split * spec.num_groups + groups_of(len(split), spec.num_groups)
    number = cells.bincount(minlength=num_splits * spec.num_groups).reshape(num_splits, spec.num_groups)
    if (number.sum(1, keepdim=True) - number).all():
        return ""
    return (
        f"of {len(split)} images one of the {num_splits} splits of the Inception Score has none left without "
        f"one of the {spec.num_groups} jackknife groups"
    )


def subsets_lack(spec: MetricsSpec, count: int, real: int | None) -> str:
    """Frechet distance at infinity: two images in its smallest subset, also without any group."""
    try:
        nested_subsets(groups_of(count, spec.num_groups), spec.num_groups)
    except UserError as error:
        return str(error)
    return ""


def chong_forsyth_lack(spec: MetricsSpec, count: int, real: int | None) -> str:
    """Chong and Forsyth's distance at infinity: more images than its smallest set."""
    if count > CF_SMALLEST:
        return ""
    return (
        f"{count} images are too few for the Frechet distance at infinity of Chong and Forsyth, whose "
        f"smallest set has {CF_SMALLEST}"
    )


def dgm_infinity_lack(spec: MetricsSpec, count: int, real: int | None) -> str:
    """dgm-eval's distance at infinity: two images in its smallest set, also without any group."""
    size, left = fewest_left(dgm_infinity_subsets(count), groups_of(count, spec.num_groups))
    if left >= 2:
        return ""
    return (
        f"{count} images are too few for dgm-eval's Frechet distance at infinity: of its smallest set of "
        f"{size} images {left} are left without some jackknife group, and 2 are needed"
    )


def refuse_lack(spec: MetricsSpec, lack: Lack, count: int, real: int | None = None) -> None:
    """Raise UserError, with a setting that works, where a family of metrics lacks images."""
    check_sizes(spec, [(lack, real)], count)


def check_sizes(
    spec: MetricsSpec,
    lacks: Sequence[tuple[Lack, int | None]],
    count: int,
    more: str = "more seeds, at least {}",
) -> None:
    """Raise UserError where `count` images, or the real ones, are too few.

    lacks: of the families of metrics, each with its number of real images. more: how to ask for more images.
    """

    def problem(spec: MetricsSpec, count: int) -> str:
        told = groups_lack(spec, count, None)
        return told or next(filter(None, (lack(spec, count, real) for lack, real in lacks)), "")

    told = problem(spec, count)
    if not told:
        return
    advice = []
    least = max(2 * spec.num_groups, count + 1)
    needed: dict[Lack, int] = {kernel_lack: spec.kid_subset_size, chong_forsyth_lack: CF_SMALLEST + 1}
    for lack, _ in lacks:
        least = max(least, needed.get(lack, 0))
    enough = next((n for n in range(least, least + MOST_TRIED) if not problem(spec, n)), None)
    if enough is not None:
        advice.append(more.format(enough))
    other = next((each for each in _others(spec, count, lacks) if not problem(each, count)), None)
    if other is not None:
        changed = [
            f"metrics.{name}={getattr(other, name)}"
            for name in ("num_groups", "kid_subset_size")
            if getattr(other, name) != getattr(spec, name)
        ]
        advice.append(" ".join(changed))
    if not advice or "reference has" in told:
        advice.append("a reference of more images ('erk-bench reference keep_features=true')")
    raise UserError(f"{told}; use {', or '.join(advice)}")


def _others(spec: MetricsSpec, count: int, lacks: Sequence[tuple[Lack, int | None]]) -> Iterator[MetricsSpec]:
    """The same metrics with other settings, the nearest first."""
    sets = [count, *(real for lack, real in lacks if lack is kernel_lack and real is not None)]
    size = min(spec.kid_subset_size, *sets)
    if size < 2:
        return
    fitting = dataclasses.replace(spec, kid_subset_size=size)
    most = count // 2
    fewer = range(min(spec.num_groups, most), 1, -1)
    greater = range(spec.num_groups + 1, min(most, spec.num_groups + MOST_TRIED) + 1)
    for num_groups in (*fewer, *greater):
        yield dataclasses.replace(fitting, num_groups=num_groups)
