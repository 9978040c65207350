"""Pictures of a grid: curves as in the paper's Figure 4, heat maps, parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator

from erk_bench.reporting.grid_views import GridPanel, GridPoint, GridView, label, short
from erk_bench.reporting.series import Look, looks
from erk_bench.reporting.styles import (
    MARGIN,
    SCREEN,
    Style,
    literal,
    panels,
    place_legend,
    set_panel_title,
    set_title,
    text_width,
    typeset,
    wrapped,
)
from erk_bench.reporting.table_figures import WIDE, logarithmic
from erk_bench.reporting.table_views import Estimate

SCALE = plt.get_cmap("viridis")
PLAIN = "without ERK-Guid"


def curves_figure(view: GridView, style: Style = SCREEN) -> Figure:
    """Figure 4 of arXiv 2603.03692: the plain solver as a line, the best cell of each panel as a star.

    A row for each panel, a column for each metric (of one metric, several panels a row), a curve for each
    value of `curves` over `x`, with error bars. On paper all panels are below each other.
    """
    places = [(panel, metric) for panel in view.panels for metric in view.titles]
    columns = len(view.titles) if len(view.titles) > 1 else min(len(view.panels), 3)
    columns = columns if style.width is None else 1
    look = looks(view.axes[view.curves] if view.curves else ("",))
    best = "best " + next(iter(view.titles.values()))
    names = [f"{short(view.curves)} {value}" if view.curves else "cells" for value in look]
    with typeset(style):
        size = (5.2, 3.5) if style.width is None else (0.0, 1.75)
        made = panels(math.ceil(len(places) / columns), columns, size, [*names, PLAIN, best], style)
        flat = [axis for line in made.axes for axis in line]
        for axis in flat[len(places) :]:
            axis.set_axis_off()
        for axis, (panel, metric) in zip(flat, places, strict=False):
            handles = _curves(axis, view, panel, metric, look, style)
            better = "lower" if view.lower[metric] else "higher"
            text = f"{view.titles[metric]} ({better} is better)"
            axis.set(
                xlabel=literal(short(view.x)),
                ylabel=literal(wrapped(text, 3.2 if style.width is None else 1.5, style.size)),
            )
            set_panel_title(axis, label(panel.place), 4.6 if style.width is None else 2.6, style)
            axis.tick_params(labelsize=style.size)
        place_legend(made, handles, style)
        set_title(made.figure, view.title, style, made.beside)
    return made.figure


def _curves(
    axis: Axes, view: GridView, panel: GridPanel, metric: str, look: dict[str, Look], style: Style
) -> list[Any]:
    """Draw one panel; returns what the legend shows: each curve, the plain solver, the best cell."""
    texts = view.axes[view.x]
    places = _positions(texts)
    handles: list[Any] = []
    # One line where all curves have the same plain solver, else one a curve, in its colour.
    lines: dict[tuple[tuple[float, Estimate], ...], str] = {}
    for value, (color, marker, line) in look.items():
        points = [point for point in panel.points if not view.curves or point.place[view.curves] == value]
        handles.append(
            axis.errorbar(
                [places[point.place[view.x]] for point in points],
                [point.metrics[metric][0] for point in points],
                yerr=[point.metrics[metric][1] for point in points],
                marker=marker,
                markersize=0.9 * style.marker,
                capsize=0.4 * style.marker,
                color=color,
                linestyle=line,
                linewidth=1.3 if style.width is None else 0.8,
                elinewidth=0.8,
            )
        )
        plain = tuple((places[point.place[view.x]], point.baseline[metric]) for point in points)
        lines.setdefault(plain, color)
    found = [point.metrics[metric][0] for point in panel.points]
    for plain, color in lines.items():
        ordered = sorted(plain)
        level = np.array([value for _, (value, _) in ordered])
        error = np.array([error for _, (_, error) in ordered])
        at, shade = [place for place, _ in ordered], "0.35" if len(lines) == 1 else color
        (drawn,) = axis.plot(at, level, "--", color=shade, linewidth=1.2, zorder=5)
        axis.fill_between(at, level - error, level + error, color=shade, alpha=0.12, linewidth=0)
        found += list(level)
        handles = [*handles[: len(look)], drawn]
    best = panel.best.point
    (star,) = axis.plot(
        places[best.place[view.x]], best.metrics[metric][0], "*", markersize=3 * style.marker,
        color="#F0E442", markeredgecolor="k", zorder=6, linestyle="none",
    )  # fmt: skip
    if min(found) > 0 and max(found) > WIDE * min(found):
        logarithmic(axis)
    axis.set_xticks(list(places.values()), [literal(text) for text in texts])
    axis.grid(alpha=0.3)
    return [*handles, star]


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


def heat_figure(view: GridView, style: Style = SCREEN) -> Figure:
    """The headline of every cell, coloured by its ratio to the plain solver (blue: better); cells resolved
    better in bold, the best framed, which a line below says. On paper the panels are below each other."""
    count, across = len(view.panels), len(view.axes[view.x])
    height = len(view.axes[view.curves]) if view.curves else 1
    with typeset(style):
        if style.width is None:
            shape = (1, count)
            size = (max(0.85 * across * count + 2.2, 4.5), 0.42 * height + 2.2)
        else:
            shape, size = (count, 1), (style.width, (0.22 * height + 0.75) * count + 1.0)
        figure, grid = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
        axes = list(grid.flat)
        found = [_colour(view, point) for point in view.points]
        # Gains are small beside losses: each side has its own range, so that both are seen.
        low, high = min(-0.5, *found), max(0.5, *found)
        norm = TwoSlopeNorm(0.0, low, high)
        for axis, panel in zip(axes, view.panels, strict=True):
            image = _heat(axis, view, panel, norm, style)
        title = view.titles[view.headline]
        name = literal(f"{title} / plain solver's")
        if style.width is None:
            bar = figure.colorbar(image, ax=axes, shrink=0.85, label=name)
        else:
            bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, label=name)
        ticks = (0.03, 0.1, 0.3, 0.5, 0.8, 1, 2, 5, 10, 20, 50)
        inside = [tick for tick in ticks if low <= _log2(view, tick) <= high]
        bar.set_ticks([_log2(view, tick) for tick in inside], labels=[f"{tick:g}" for tick in inside])
        bar.ax.tick_params(labelsize=style.small)
        meant = "bold: better than the plain solver (resolved); framed: best of its panel"
        figure.supxlabel(wrapped(meant, size[0] - 2 * MARGIN, style.small), fontsize=style.small)
        set_title(figure, f"{view.title}: {title}", style)
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


def _heat(
    axis: Axes, view: GridView, panel: GridPanel, norm: TwoSlopeNorm, style: Style
) -> matplotlib.image.AxesImage:
    across = view.axes[view.x]
    down = view.axes[view.curves] if view.curves else ("",)
    colours = np.full((len(down), len(across)), np.nan)
    digits = 3 if style.width is None or len(across) <= 8 else 2
    for point in panel.points:
        row = down.index(point.place[view.curves]) if view.curves else 0
        column = across.index(point.place[view.x])
        colours[row, column] = _colour(view, point)
        bold = "bold" if point.verdict == "better" else "normal"
        dark = abs(norm(colours[row, column]) - 0.5) > 0.35
        axis.text(
            column, row, _rounded(point.metrics[view.headline][0], digits), ha="center", va="center",
            fontsize=style.small, fontweight=bold, color="white" if dark else "black",
        )  # fmt: skip
        if point.run_id == panel.best.point.run_id:
            axis.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, linewidth=2.2))
    image = axis.imshow(colours, cmap="RdBu_r", norm=norm, aspect="auto")
    plain = f" (plain {_rounded(panel.baseline[view.headline][0], 3)})" if panel.baseline else ""
    width = max(0.85 * len(across), 2.0) if style.width is None else 2.6
    set_panel_title(axis, f"{label(panel.place)}{plain}".strip(), width, style)
    axis.set_xlabel(literal(short(view.x)))
    axis.set_xticks(range(len(across)), [literal(text) for text in across])
    axis.set_yticks(range(len(down)), [literal(text) for text in down])
    axis.tick_params(labelsize=style.size)
    if view.curves:
        axis.set_ylabel(literal(short(view.curves)))
    return image


def _rounded(value: float, digits: int) -> str:
    """To so many digits, but never with an exponent in place of digits before the point."""
    return f"{value:.{max(digits, len(str(int(abs(value)))))}g}"


class _Scale(NamedTuple):
    """One upright of parallel coordinates: its title, ticks (position, text), and each cell's position."""

    title: str
    ticks: list[tuple[float, str]]
    places: list[float]


def parallel_figure(view: GridView, style: Style = SCREEN) -> Figure:
    """A line for each cell through its value on every axis to its metrics; coloured by the headline, the best
    cells of the panels thick."""
    points = view.points
    scales = [_axis_scale(view, key) for key, values in view.axes.items() if len(values) > 1]
    scales += [_metric_scale(view, metric) for metric in view.titles]
    headline = scales[len(scales) - len(view.titles)].places
    best = {panel.best.point.run_id for panel in view.panels}
    with typeset(style):
        widest = max(text_width(text, style.small) for scale in scales for _, text in scale.ticks)
        step = max(2.3, widest + 0.5)
        size = (step * len(scales) + 1.5, 4.6) if style.width is None else (style.width, 2.6)
        figure, axis = plt.subplots(figsize=size, layout="constrained")
        worst_first = sorted(range(len(points)), key=lambda number: headline[number])
        if view.lower[view.headline]:
            worst_first.reverse()
        thin, thick = (1.0, 3.0) if style.width is None else (0.5, 1.8)
        for number in worst_first:
            chosen = points[number].run_id in best
            good = 1 - headline[number] if view.lower[view.headline] else headline[number]
            axis.plot(
                range(len(scales)), [scale.places[number] for scale in scales], color=SCALE(good),
                alpha=1.0 if chosen else 0.55, linewidth=thick if chosen else thin,
                zorder=4 if chosen else 2,
            )  # fmt: skip
        box = {"boxstyle": "round,pad=0.1", "fc": "w", "ec": "none", "alpha": 0.75}
        for position, scale in enumerate(scales):
            axis.axvline(position, color="k", linewidth=0.8, zorder=3)
            for place, text in scale.ticks:
                axis.annotate(
                    literal(text), (position, place), xytext=(-4, 0), textcoords="offset points", ha="right",
                    va="center", fontsize=style.small, zorder=5, bbox=box,
                )  # fmt: skip
        room = step - 0.1 if style.width is None else style.width / len(scales) - 0.05
        axis.set_xticks(
            range(len(scales)), [literal(wrapped(scale.title, room, style.size)) for scale in scales]
        )
        axis.tick_params(labelsize=style.size)
        axis.set(ylim=(-0.04, 1.04), xlim=(-0.55, len(scales) - 0.65))
        axis.yaxis.set_major_locator(FixedLocator([]))
        for side in axis.spines.values():
            side.set_visible(False)
        set_title(figure, f"{view.title} (bright: good; thick: best of its panel)", style)
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


# Pictures of a grid by name.
FIGURES: dict[str, Callable[[GridView, Style], Figure]] = {
    "curves": curves_figure,
    "heat": heat_figure,
    "parallel": parallel_figure,
}
