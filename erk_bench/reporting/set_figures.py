"""Figures of a set of images that something else made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from erk_bench.reporting.series import COLORS
from erk_bench.reporting.styles import SCREEN, literal, panels, set_title, typeset
from erk_bench.reporting.table_figures import to_bytes

MOST = 30  # classes shown: half of them the farthest, half the nearest


class ClassDistance(NamedTuple):
    """The Frechet distance of the images of a class to the real ones of the same class."""

    class_name: str
    images: int
    real_images: int
    distance: float
    standard_error: float


def class_figure(classes: Sequence[ClassDistance], name: str) -> bytes:
    """A PNG file: the distance of each class with its standard error, the farthest on top.

    classes: sorted, the farthest first. Of many, the farthest and the nearest.
    """
    few = list(classes) if len(classes) <= MOST else [*classes[: MOST // 2], *classes[-MOST // 2 :]]
    left_out = len(classes) - len(few)
    with typeset(SCREEN):
        made = panels(1, 1, (5.0, 1.0 + 0.22 * len(few)), [], SCREEN)
        axis, places = made.axes[0][0], range(len(few))[::-1]
        axis.errorbar(
            [row.distance for row in few], places, xerr=[row.standard_error for row in few], fmt="o",
            color=COLORS[1], markersize=SCREEN.marker, capsize=2, elinewidth=0.8,
        )  # fmt: skip
        axis.set_yticks(list(places), [literal(f"{row.class_name} ({row.images})") for row in few])
        axis.set_ylim(-0.6, len(few) - 0.4)
        axis.set_xlabel("Frechet distance to the real images of the class")
        axis.grid(alpha=0.3, axis="x")
        middle = f", {left_out} classes between them" if left_out else ""
        set_title(made.figure, f"{name}: classes (images){middle}", SCREEN, made.beside)
    return to_bytes(made.figure, "png")
