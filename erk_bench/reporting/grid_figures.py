"""Pictures of a grid: curves as in the paper's Figure 4, heat maps, parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from erk_bench.grids import label, short
from erk_bench.reporting.grid_views import GridPanel, GridPoint, GridView
from erk_bench.reporting.views import Estimate

WIDE = 4.0  # ratio of values from which an axis is logarithmic
CURVES, SCALE = plt.get_cmap("plasma"), plt.get_cmap("viridis")


def curves_figure(view: GridView) -> Figure:
    """Figure 4 of arXiv 2603.03692: the plain solver as a line, the best cell of each panel as a star.

    A row for each panel, a column for each metric (of one metric, several panels a row), a curve for each
    value of `curves` over `x`, with error bars.
    """
    places = [(panel, metric) for panel in view.panels for metric in view.titles]
    columns = len(view.titles) if len(view.titles) > 1 else min(len(view.panels), 3)
    rows = math.ceil(len(places) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(5.2 * columns + 1.2, 3.5 * rows + 0.5), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(places) :]:
        axis.set_axis_off()
    for axis, (panel, metric) in zip(axes.flat, places, strict=False):
        _curves(axis, view, panel, metric)
        title = view.titles[metric]
        better = "lower" if view.lower[metric] else "higher"
        axis.set(title=label(panel.place), xlabel=short(view.x), ylabel=f"{title} ({better} is better)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    figure.suptitle(view.title, fontsize=11)
    return figure


def _curves(axis: Axes, view: GridView, panel: GridPanel, metric: str) -> None:
    texts = view.axes[view.x]
    places = _positions(texts)
    values = view.axes[view.curves] if view.curves else ("",)
    colors = CURVES(np.linspace(0.0, 0.88, len(values)))
    for color, value in zip(colors, values, strict=True):
        points = [point for point in panel.points if not view.curves or point.place[view.curves] == value]
        axis.errorbar(
            [places[point.place[view.x]] for point in points],
            [point.metrics[metric][0] for point in points],
            yerr=[point.metrics[metric][1] for point in points],
            marker="o", markersize=4, capsize=2, linewidth=1.3, color=color,
            label=f"{short(view.curves)} {value}" if view.curves else "",
        )  # fmt: skip
    found = [point.metrics[metric][0] for point in panel.points]
    # One line where all curves have the same plain solver, else one a curve, in its colour.
    lines: dict[tuple[tuple[float, Estimate], ...], Any] = {}
    for color, value in zip(colors, values, strict=True):
        points = [point for point in panel.points if not view.curves or point.place[view.curves] == value]
        line = tuple((places[point.place[view.x]], point.baseline[metric]) for point in points)
        lines.setdefault(line, color)
    for number, (line, color) in enumerate(lines.items()):
        ordered = sorted(line)
        level = np.array([value for _, (value, _) in ordered])
        error = np.array([error for _, (_, error) in ordered])
        at, shade = [place for place, _ in ordered], "k" if len(lines) == 1 else color
        name = None if number else "without ERK-Guid"
        axis.plot(at, level, "--", color=shade, linewidth=1.2, label=name, zorder=5)
        axis.fill_between(at, level - error, level + error, color=shade, alpha=0.12, linewidth=0)
        found += list(level)
    best = panel.best.point
    axis.plot(
        places[best.place[view.x]], best.metrics[metric][0], "*", markersize=15, color="#a3be8c",
        markeredgecolor="k", zorder=6, linestyle="none", label="best " + next(iter(view.titles.values())),
    )  # fmt: skip
    if min(found) > 0 and max(found) > WIDE * min(found):
        _logarithmic(axis)
    axis.set_xticks(list(places.values()), list(texts))
    axis.grid(alpha=0.3)


def _positions(texts: Sequence[str]) -> dict[str, float]:
    """Where values stand on an axis: as numbers if they are, else one after the other.

    Numbers that would crowd (0.1, 0.3, ... 10) stand one after the other too.
    """
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return {text: float(index) for index, text in enumerate(texts)}
    gaps = np.diff(sorted(numbers))
    if len(gaps) and min(gaps) < 0.045 * (max(numbers) - min(numbers)):
        return {text: float(index) for index, text in enumerate(texts)}
    return dict(zip(texts, numbers, strict=True))


def _logarithmic(axis: Axes) -> None:
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def heat_figure(view: GridView) -> Figure:
    """The headline of every cell, coloured by its ratio to the plain solver (blue: better); cells resolved
    better in bold, the best framed."""
    columns = len(view.panels)
    height = len(view.axes[view.curves]) if view.curves else 1
    size = (0.85 * len(view.axes[view.x]) * columns + 2.2, 0.42 * height + 1.9)
    figure, axes = plt.subplots(1, columns, figsize=size, squeeze=False, layout="constrained")
    found = [_colour(view, point) for point in view.points]
    # Gains are small beside losses: each side has its own range, so that both are seen.
    low, high = min(-0.5, *found), max(0.5, *found)
    norm = TwoSlopeNorm(0.0, low, high)
    for axis, panel in zip(axes[0], view.panels, strict=True):
        image = _heat(axis, view, panel, norm)
    title = view.titles[view.headline]
    bar = figure.colorbar(image, ax=axes[0], shrink=0.85, label=f"{title} / plain solver's")
    ticks = [0.03, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 2, 5, 10, 20, 50]
    inside = [tick for tick in ticks if low <= _log2(view, tick) <= high]
    bar.set_ticks([_log2(view, tick) for tick in inside], labels=[f"{tick:g}" for tick in inside])
    figure.suptitle(f"{view.title}: {title}", fontsize=11)
    return figure


def _colour(view: GridView, point: GridPoint) -> float:
    """log2 of the headline's ratio to the plain solver's, bounded; positive is worse."""
    value, plain = point.metrics[view.headline][0], point.baseline[view.headline][0]
    if value <= 0 or plain <= 0:
        worse = (value - plain) if view.lower[view.headline] else (plain - value)
        return math.copysign(6.0, worse) if worse else 0.0
    return max(-6.0, min(6.0, _log2(view, value / plain)))


def _log2(view: GridView, ratio: float) -> float:
    return math.log2(ratio) if view.lower[view.headline] else -math.log2(ratio)


def _heat(axis: Axes, view: GridView, panel: GridPanel, norm: TwoSlopeNorm) -> matplotlib.image.AxesImage:
    across = view.axes[view.x]
    down = view.axes[view.curves] if view.curves else ("",)
    colours = np.full((len(down), len(across)), np.nan)
    for point in panel.points:
        row = down.index(point.place[view.curves]) if view.curves else 0
        column = across.index(point.place[view.x])
        colours[row, column] = _colour(view, point)
        bold = "bold" if point.verdict == "better" else "normal"
        dark = abs(norm(colours[row, column]) - 0.5) > 0.35
        axis.text(
            column, row, f"{point.metrics[view.headline][0]:.3g}", ha="center", va="center", fontsize=8,
            fontweight=bold, color="white" if dark else "black",
        )  # fmt: skip
        if point.run_id == panel.best.point.run_id:
            axis.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, linewidth=2.2))
    image = axis.imshow(colours, cmap="RdBu_r", norm=norm, aspect="auto")
    plain = f" (plain {panel.baseline[view.headline][0]:.3g})" if panel.baseline else ""
    axis.set(title=f"{label(panel.place)}{plain}".strip(), xlabel=short(view.x))
    axis.set_xticks(range(len(across)), across)
    axis.set_yticks(range(len(down)), down)
    if view.curves:
        axis.set_ylabel(short(view.curves))
    return image


class _Scale(NamedTuple):
    """One upright of parallel coordinates: its title, ticks (position, text), and each cell's position."""

    title: str
    ticks: list[tuple[float, str]]
    places: list[float]


def parallel_figure(view: GridView) -> Figure:
    """A line for each cell through its value on every axis to its metrics; coloured by the headline, the best
    cells of the panels thick."""
    points = view.points
    scales = [_axis_scale(view, key) for key, values in view.axes.items() if len(values) > 1]
    scales += [_metric_scale(view, metric) for metric in view.titles]
    headline = scales[len(scales) - len(view.titles)].places
    best = {panel.best.point.run_id for panel in view.panels}
    figure, axis = plt.subplots(figsize=(2.3 * len(scales) + 1.5, 4.6), layout="constrained")
    worst_first = sorted(range(len(points)), key=lambda number: headline[number])
    if view.lower[view.headline]:
        worst_first.reverse()
    for number in worst_first:
        chosen = points[number].run_id in best
        good = 1 - headline[number] if view.lower[view.headline] else headline[number]
        axis.plot(
            range(len(scales)), [scale.places[number] for scale in scales], color=SCALE(good),
            alpha=1.0 if chosen else 0.55, linewidth=3.0 if chosen else 1.0, zorder=4 if chosen else 2,
        )  # fmt: skip
    box = {"boxstyle": "round,pad=0.1", "fc": "w", "ec": "none", "alpha": 0.75}
    for position, scale in enumerate(scales):
        axis.axvline(position, color="k", linewidth=0.8, zorder=3)
        for place, text in scale.ticks:
            axis.annotate(
                text, (position, place), xytext=(-4, 0), textcoords="offset points", ha="right", va="center",
                fontsize=8, zorder=5, bbox=box,
            )  # fmt: skip
    axis.set_xticks(range(len(scales)), [scale.title for scale in scales])
    axis.set(ylim=(-0.04, 1.04), xlim=(-0.45, len(scales) - 0.85))
    axis.yaxis.set_major_locator(FixedLocator([]))
    for side in axis.spines.values():
        side.set_visible(False)
    figure.suptitle(f"{view.title}\n(bright: good; thick: best of its panel)", fontsize=11)
    return figure


def _axis_scale(view: GridView, key: str) -> _Scale:
    values = view.axes[key]
    place = {value: index / (len(values) - 1) for index, value in enumerate(values)}
    ticks = [(place[value], value) for value in values]
    return _Scale(short(key), ticks, [place[point.place[key]] for point in view.points])


def _metric_scale(view: GridView, metric: str) -> _Scale:
    found = np.array([point.metrics[metric][0] for point in view.points])
    logarithmic = found.min() > 0 and found.max() > WIDE * found.min()
    scaled = np.log(found) if logarithmic else found
    low, high = float(scaled.min()), float(scaled.max())
    span = high - low or 1.0
    levels = np.linspace(low, high, 5)
    shown = np.exp(levels) if logarithmic else levels
    ticks = [(float((at - low) / span), f"{value:.2g}") for at, value in zip(levels, shown, strict=True)]
    return _Scale(view.titles[metric], ticks, [float((value - low) / span) for value in scaled])
