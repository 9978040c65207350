"""The picture of a search: where it looked, and what it found there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from erk_bench.reporting.series import looks
from erk_bench.reporting.styles import SCREEN, set_panel_title
from erk_bench.sampling.shared import Strength


def search_figure(
    title: str,
    metric: str,
    rungs: Sequence[tuple[int, Sequence[tuple[Strength, float]]]],
    plain: Sequence[float],
) -> Figure:
    """Every cell, larger and with another marker the more images it was measured on, coloured by its ratio to
    the plain solver there.

    rungs: image numbers with their cells and values, best first. plain: the plain solver's value on each.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    colours = [
        [max(-4.0, min(4.0, math.log2(value / level))) if value > 0 < level else 0.0 for _, value in cells]
        for (_, cells), level in zip(rungs, plain, strict=True)
    ]
    found = [value for line in colours for value in line]
    norm = TwoSlopeNorm(0.0, min(-0.5, *found, -0.5), max(0.5, *found, 0.5))
    shapes = looks(str(number) for number in range(len(rungs)))
    for number, ((images, cells), line) in enumerate(zip(rungs, colours, strict=True)):
        axis.scatter(
            [cell.w_con for cell, _ in cells], [cell.w_stiff for cell, _ in cells], c=line, norm=norm,
            cmap="RdBu_r", s=25 + 70 * number, edgecolors="k",
            marker=shapes[str(number)].marker, linewidths=0.5, zorder=3 + number,
            label=f"{len(cells)} cells, {images:,} images",
        )  # fmt: skip
    winner = rungs[-1][1][0][0]
    axis.plot(
        winner.w_con, winner.w_stiff, "*", markersize=15, color="#F0E442", markeredgecolor="k", zorder=30,
        linestyle="none", label="winner",
    )  # fmt: skip
    axis.set(xlabel="w_con", ylabel="w_stiff")
    set_panel_title(axis, title, 4.6, SCREEN)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8, ncols=2)
    bar = figure.colorbar(axis.collections[0], ax=axis, label=f"{metric} / plain solver's")
    levels = {tick: math.log2(tick) for tick in (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 2, 5, 10)}
    inside = [tick for tick, level in levels.items() if 0 <= float(norm(level)) <= 1]
    bar.set_ticks([levels[tick] for tick in inside], labels=[f"{tick:g}" for tick in inside])
    return figure
