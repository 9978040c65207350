"""Metrics that are the mean of others, each divided by a constant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from erk_bench.evaluation.measured import Measured


class Summand(NamedTuple):
    """A metric's name, and what its values are divided by."""

    metric: str
    constant: float


@dataclass(frozen=True)
class Composite:
    """A row of COMPOSITES. lower: whether lower values are better, as of every part.

    It has a value where every part has one.
    """

    name: str
    title: str
    parts: tuple[Summand, ...]
    lower: bool = True

    def mean(self, found: Sequence[Measured]) -> Measured:
        """Mean of the parts, in the order of `parts`; without a group, of the parts without it."""
        constants = [part.constant for part in self.parts]

        def mean(values: Sequence[float]) -> float:
            return math.fsum(x / by for x, by in zip(values, constants, strict=True)) / len(constants)

        replicates = zip(*(each.replicates for each in found), strict=True)
        return Measured(mean([each.value for each in found]), tuple(map(mean, replicates)))


# FDr6 (arXiv 2604.28190): six encoders, each distance divided by the constant of its published catalogue.
_FDR6 = {
    "inception": 1.68, "fdr6_convnext": 56.87, "fdr6_dinov2": 14.19, "fdr6_mae": 0.04, "fdr6_siglip": 0.6,
    "fdr6_clip": 5.6,
}  # fmt: skip

COMPOSITES: dict[str, Composite] = {
    "fdr6": Composite(
        "fdr6", "FDr6", tuple(Summand(f"fd@{name}", constant) for name, constant in _FDR6.items())
    ),
}
