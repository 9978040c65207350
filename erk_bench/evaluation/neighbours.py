"""Nearest neighbours and balls among all pairs of images, in blocks: never a matrix of all by all.

Distances are computed as the published program computes them, on blocks of the same shape, because which
image is "inside" a radius may hang on the last bit: torch-fidelity's `torch.cdist` of float32 features
subtracts large numbers for close points, and copies of one image are at a distance of rounding only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.evaluation.distances import FIDELITY, Rule
from erk_bench.evaluation.half_samples import Closest, HalfCover

DISTANCE_BLOCK = 10_000  # torch-fidelity's prc_batch_size; a block is 400 MB of float32
COUNTED = 1_000  # rows of a block counted at a time: torch widens each flag to eight bytes


class Neighbourhoods(NamedTuple):
    """Precision, recall, density and coverage of images and real images, whole and without each group.

    Those of random halves of the images are missing where a half has too few for a radius.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    precisions: list[float]
    recalls: list[float]
    densities: list[float]
    coverages: list[float]
    recalls_of_halves: tuple[float, ...] = ()
    coverages_of_halves: tuple[float, ...] = ()


def precision_recall_without_groups(
    images: Tensor,
    real: Tensor,
    groups: Tensor,
    num_groups: int,
    neighborhood: int,
    block: int = DISTANCE_BLOCK,
    rule: Rule = FIDELITY,
) -> Neighbourhoods:
    """Improved precision and recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797), and those
    without each group of images.

    images [N, D], real [M, D] float32 with more than `neighborhood` rows, also without any group; groups
    int64 [N]. With FIDELITY the values are torch-fidelity's bit for bit, which averages in float32, on the
    same machine and threads. Cost: N N + M M + N M distances, held in blocks of `block` squared: about 1 GB
    beside the features at 4,096 dimensions.
    """
    count = neighborhood + 1  # an image is its own nearest
    alone = torch.zeros(len(real), dtype=torch.int64)
    real_radii = nearest_by_group(real, alone, 1, count, block, rule)[:, 0, -1]
    closest = Closest(len(images)) if len(images) // 2 >= count else None
    nearest = nearest_by_group(images, groups, num_groups, count, block, rule, closest)
    halves = None if closest is None else HalfCover(len(real), closest, count, rule)
    radii = nearest.flatten(1).kthvalue(count).values
    # A group's leaving moves the radii of those images only that have a near one in it.
    radii_without = radii[:, None].repeat(1, num_groups)
    for group in range(num_groups):
        moved = torch.nonzero(nearest[:, group, 0] <= radii).flatten()
        rest = nearest[moved]
        rest[:, group] = torch.inf
        radii_without[moved, group] = rest.flatten(1).kthvalue(count).values

    balls = torch.zeros(len(images), dtype=torch.int64)  # of real images that hold the image
    near = torch.zeros(len(real), num_groups, dtype=torch.bool)  # an image of the group is in its ball
    covered_by = torch.zeros(len(real), num_groups, dtype=torch.bool)  # an image of the group covers it
    covered_wider = torch.zeros_like(covered_by)  # an image does, of a radius grown without the group
    for columns in blocks_of(len(images), block):
        of = groups[columns]
        grown = radii_without[columns] > radii[columns, None]
        grown.scatter_(1, of[:, None], False)
        for rows in blocks_of(len(real), block):
            distances = rule.distances(real[rows], images[columns])
            held = rule.inside(distances, real_radii[rows, None])
            for some in held.split(COUNTED):
                balls[columns] += some.sum(dim=0)
            if halves is not None:
                halves.add(rows, columns, distances, held)
            for group, part in _parts(held, of):
                near[rows, group] |= part.any(dim=1)
            for group, part in _parts(rule.inside(distances, radii[columns]), of):
                covered_by[rows, group] |= part.any(dim=1)
            for group in range(num_groups):
                wider = torch.nonzero(grown[:, group]).flatten()
                within = rule.inside(distances[:, wider], radii_without[columns][wider, group])
                covered_wider[rows, group] |= within.any(dim=1)
            del distances, held  # before the next block is made: one at a time
    left = len(images) - groups.bincount(minlength=num_groups)

    def rests(values: Tensor) -> list[float]:
        """Means over the images that are left without each group."""
        sums = torch.zeros(num_groups, dtype=torch.float64).index_add_(0, groups, values.double())
        return ((sums.sum() - sums) / left).tolist()

    return Neighbourhoods(
        (balls > 0).to(rule.mean).mean().item(),
        covered_by.any(dim=1).to(rule.mean).mean().item(),
        balls.double().mean().item() / neighborhood,
        near.any(dim=1).double().mean().item(),
        rests(balls > 0),
        (_by_others(covered_by) | covered_wider).double().mean(0).tolist(),
        rests(balls.double() / neighborhood),
        _by_others(near).double().mean(0).tolist(),
        () if halves is None else halves.recalls(),
        () if halves is None else halves.coverages(),
    )


def _by_others(flags: Tensor) -> Tensor:
    """Whether any group but this one has a flag, bool [N, num_groups]."""
    return flags.sum(1, keepdim=True) > flags.int()


def nearest_by_group(
    features: Tensor,
    groups: Tensor,
    num_groups: int,
    count: int,
    block: int = DISTANCE_BLOCK,
    rule: Rule = FIDELITY,
    closest: Closest | None = None,
) -> Tensor:
    """Each image's `count` smallest distances to the images of each group, float32 [N, num_groups, count].

    Ascending, itself included; infinite where a group has fewer images. features [N, D], groups int64 [N].
    closest: takes in the distances, too.
    """
    found = torch.full((len(features), num_groups, count), torch.inf)
    for rows in blocks_of(len(features), block):
        for columns in blocks_of(len(features), block):
            distances = rule.distances(features[rows], features[columns])
            if closest is not None:
                closest.add(rows, columns, distances)
            for group, part in _parts(distances, groups[columns]):
                near = part.topk(min(count, part.shape[1]), largest=False).values
                joined = torch.cat([found[rows, group], near], dim=1)
                found[rows, group] = joined.topk(count, largest=False).values
            del distances, part  # before the next block is made: one at a time
    return found


def blocks_of(count: int, block: int) -> Iterator[slice]:
    for start in range(0, count, block):
        yield slice(start, min(start + block, count))


def _parts(values: Tensor, of: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The columns of each group, as views where those of a group lie together."""
    if (of[1:] < of[:-1]).any():
        of, order = of.sort(stable=True)
        values = values[:, order]
    runs, sizes = of.unique_consecutive(return_counts=True)
    yield from zip(runs.tolist(), values.split(sizes.tolist(), dim=1), strict=True)
