"""Recall and coverage of random halves of the images: how far they vary says how sure the whole one is.

Leaving out a small group moves statistics of nearest neighbours too much: without it other balls grow, and
what a few images alone cover is lost, which a new sample would not do at once. Of samples half as large the
variance is about right: n - d of n images are kept with d of the order of n, as statistics that are not
smooth need (Shao and Wu 1989, "A general theory for jackknife variance estimation").
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from erk_bench.evaluation.distances import Rule

NUM_HALVES = 100
HALVES_SEED = 2020
CLOSEST = 64  # neighbours kept of each image: of so many, hardly ever fewer than six are of a half
ROWS = 1_000  # real images at a time: pairs within reach are few, but may be all


def half_samples(count: int) -> Tensor:
    """Members of each half, bool [NUM_HALVES, count]: random halves and what they leave.

    They depend on `count` alone, so that two runs of the same seeds have the same ones.
    """
    random = np.random.RandomState(HALVES_SEED)
    halves = torch.zeros(NUM_HALVES // 2, count, dtype=torch.bool)
    for half in halves:
        half[torch.from_numpy(random.permutation(count)[: count // 2])] = True
    return torch.cat([halves, ~halves])


def half_sample_error(halves: Sequence[float]) -> float:
    """Standard error from the values of random halves: their standard deviation.

    The delete-d jackknife with d = n / 2, whose factor (n - d) / d is 1 (Shao and Wu 1989).
    """
    mean = math.fsum(halves) / len(halves)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in halves) / len(halves))


class Closest:
    """The CLOSEST nearest of each image, found block by block."""

    def __init__(self, count: int) -> None:
        """count: of images."""
        width = min(CLOSEST, count)
        self.distances = torch.full((count, width), torch.inf)
        self.images = torch.zeros(count, width, dtype=torch.int64)

    def add(self, rows: slice, columns: slice, distances: Tensor) -> None:
        """Take in a block of distances between images."""
        width = self.images.shape[1]
        near = distances.topk(min(width, distances.shape[1]), largest=False)
        joined = torch.cat([self.distances[rows], near.values], dim=1)
        images = torch.cat([self.images[rows], near.indices + columns.start], dim=1)
        self.distances[rows], kept = joined.topk(width, largest=False)
        self.images[rows] = images.gather(1, kept)

    def radii(self, members: Tensor, count: int) -> Tensor:
        """Each member's distance to its `count`-th nearest member, itself included, float32 [N].

        members: bool [N]. Minus infinity for others: their balls hold nothing.
        """
        before = (members[self.images].cumsum(1) < count).sum(1, keepdim=True)
        radii = self.distances.gather(1, before.clamp(max=self.distances.shape[1] - 1))[:, 0]
        return radii.where(members, -torch.inf)


class HalfCover:
    """Which real images each half covers (recall), and whose ball it reaches (coverage)."""

    def __init__(self, num_real: int, closest: Closest, count: int, rule: Rule) -> None:
        """count: the neighbour, an image itself included, to which a radius goes."""
        self._members = half_samples(len(closest.images))
        self._radii = torch.stack([closest.radii(members, count) for members in self._members])
        self._widest = self._radii.max(dim=0).values
        self._rule = rule
        self._covered = torch.zeros(NUM_HALVES, num_real, dtype=torch.bool)
        self._reached = torch.zeros(num_real, NUM_HALVES, dtype=torch.bool)

    def add(self, rows: slice, columns: slice, distances: Tensor, held: Tensor) -> None:
        """Take in a block of distances from real images to images.

        held: whether an image is in the real one's ball.
        """
        members = self._members[:, columns].T.float()
        for start in range(0, len(distances), ROWS):
            part = slice(start, start + ROWS)
            real = slice(rows.start + start, min(rows.start + start + ROWS, rows.stop))
            self._reached[real] |= held[part].float() @ members > 0
            near = distances[part]
            row, column = self._rule.inside(near, self._widest[columns]).nonzero(as_tuple=True)
            lengths = near[row, column]
            for radii, covered in zip(self._radii[:, columns], self._covered[:, real], strict=True):
                covered[row[self._rule.inside(lengths, radii[column])]] = True

    def recalls(self) -> tuple[float, ...]:
        """Of each half."""
        return tuple(self._covered.double().mean(1).tolist())

    def coverages(self) -> tuple[float, ...]:
        """Of each half."""
        return tuple(self._reached.double().mean(0).tolist())
