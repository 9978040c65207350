"""Pictures drawn from table rows and from samples."""

from __future__ import annotations

import importlib
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from erk_bench.reporting.series import COLORS, Look, looks, series_names
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
    thinned,
    typeset,
    wrapped,
)
from erk_bench.reporting.table_views import FIGURES, Estimate, TableRow, TableView

DODGE = 0.004  # of the cost, between neighbouring error bars
ERROR = "solver_error"
CROWDED = 7.5  # evaluations from which the solvers are close, and have a panel where none hides another
WIDE = 4.0  # ratio of values from which an axis is logarithmic
PAPER_SHEET = 6  # images a row that fit a column of a paper
SHARP = 32  # side in pixels up to which images are shown pixel by pixel


def steps_figure(view: TableView, style: Style = SCREEN) -> Figure:
    """The headline metric against steps, one panel a guidance, one line a series, with error bars."""
    rows, given = parted(view)
    if not rows:
        return given_figure(view, style)
    guidances = list(dict.fromkeys(row.guidance for row in rows))
    names = series_names(rows, lambda row: row.steps or 0)
    look = looks(names)
    with typeset(style):
        shape = (1, len(guidances)) if style.width is None else (len(guidances), 1)
        size = (3.6, 3.2) if style.width is None else (0.0, 1.9)
        made = panels(*shape, size, [*look, *(row.method for row in given)], style, sharey=True)
        handles: dict[str, object] = {}
        for axis, guidance in zip(itertools.chain(*made.axes), guidances, strict=True):
            here = [(name, row) for name, row in zip(names, rows, strict=True) if row.guidance == guidance]
            for name in dict.fromkeys(name for name, _ in here):
                points = [row for other, row in here if other == name]
                # Rows of one step count have no line through them.
                several = len({row.steps for row in points}) < len(points)
                handles[name] = bars(
                    axis,
                    [row.steps or 0 for row in points],
                    points,
                    look[name],
                    name,
                    style,
                    line=not several,
                )
            handles |= given_levels(axis, given)
            number_axes(axis, [row for _, row in here], "steps", 3.0, style)
            panel_title(axis, guidance, len(guidances), 3.6, style)
        for line in made.axes:
            line[0].set_ylabel(better(view, style))
        place_legend(made, list(handles.values()), style)
        set_title(made.figure, view.title, style, made.beside)
    return made.figure


def nfe_figure(view: TableView, style: Style = SCREEN) -> Figure:
    """The headline metric against evaluations of the networks, one panel a guidance, one colour a series (a
    solver, where there are more series than colours).

    Dashed lines are corrected rows; bars are standard errors; the gray band is the Pareto front, of rows that
    none of the same or lower cost beats. Below, the solver error against the same evaluations where the rows
    have it, else the rows from 8 evaluations on beside each other.
    """
    sampled, given = parted(view)
    if not sampled:
        return given_figure(view, style)
    guidances = list(dict.fromkeys(row.guidance for row in sampled))
    names = series_names(sampled, lambda row: row.cost)
    solvers = {name: row.solver.partition(",")[0] or name for name, row in zip(names, sampled, strict=True)}
    look = looks(names, solvers if len(solvers) > len(COLORS) else None)
    dashed = {name for name, row in zip(names, sampled, strict=True) if row.method != row.solver}
    look = {name: each._replace(line="--" if name in dashed else "-") for name, each in look.items()}
    of = {guidance: [pair for pair in zip(names, sampled, strict=True) if pair[1].guidance == guidance]
          for guidance in guidances}  # fmt: skip
    crowded = {
        guidance: [pair for pair in pairs if pair[1].cost >= CROWDED] for guidance, pairs in of.items()
    }
    errors = {
        guidance: [(name, other) for name, row in pairs if (other := _by_error(row))]
        for guidance, pairs in of.items()
    }
    below = any(errors.values()) or any(len(pairs) > 1 for pairs in crowded.values())
    with typeset(style):
        across = len(guidances) if style.width is None else 1
        rows = (1 + below) * (1 if style.width is None else len(guidances))
        # Wide alone, narrower beside others, so that the type stays readable where the whole is shrunk.
        screen = max(3.8, 7.0 - 1.6 * (len(guidances) - 1))
        size = (screen, 3.8) if style.width is None else (0.0, 2.2)
        made = panels(rows, across, size, ["Pareto front", *look, *(row.method for row in given)], style)
        handles: dict[str, object] = {}
        for index, guidance in enumerate(guidances):
            first, column = (0, index) if style.width is None else (index * (1 + below), 0)
            over = made.axes[first][column]
            handles |= _overview(over, view, of[guidance], look, screen - 0.7, style)
            levels = given_levels(over, given)
            panel_title(over, guidance, len(guidances), screen - 0.5, style)
            over.set_ylabel(better(view, style))
            if not below:
                continue
            axis, by_error = made.axes[first + 1][column], [row for _, row in errors[guidance]]
            if by_error:
                shown_errors = replace(view, rows=tuple(by_error), lower=True)
                _overview(axis, shown_errors, errors[guidance], look, screen - 0.7, style)
                axis.set_ylabel(better(shown_errors, style))
            else:
                _side_by_side(axis, view, crowded[guidance], look, style)
                axis.set_ylabel(better(view, style))
        shown = [handles[name] for name in ("Pareto front", *look)]
        place_legend(made, [*shown, *levels.values()], style)
        set_title(made.figure, view.title, style, made.beside)
    return made.figure


def _by_error(row: TableRow) -> TableRow | None:
    """The row with its solver error as the headline; None where that is the headline already, or unknown."""
    if ERROR not in row.metrics or next(iter(row.metrics)) == ERROR:
        return None
    return replace(row, metrics={ERROR: row.metrics[ERROR], **row.metrics})


def parted(view: TableView) -> tuple[list[TableRow], list[TableRow]]:
    """Rows that were sampled, and sets of images, which have neither steps nor cost."""
    rows = list(view.rows)
    return [row for row in rows if row.steps is not None], [row for row in rows if row.steps is None]


def given_levels(axis: Axes, given: Sequence[TableRow]) -> dict[str, object]:
    """A line across for each set of images; returns what the legend shows of it."""
    found: dict[str, object] = {}
    for number, row in enumerate(given):
        color, (value, error) = COLORS[-1 - number % len(COLORS)], headline(row)
        axis.axhspan(value - error, value + error, color=color, alpha=0.15, linewidth=0)
        found[row.method] = axis.axhline(value, color=color, linestyle=":", label=literal(row.method))
    return found


def given_figure(view: TableView, style: Style) -> Figure:
    """The headline metric of sets of images, one below the other."""
    height = 1.0 + 0.3 * len(view.rows)
    with typeset(style):
        made = panels(1, 1, (5.0 if style.width is None else 0.0, height), [], style)
        axis, places = made.axes[0][0], range(len(view.rows))[::-1]
        values = [headline(row) for row in view.rows]
        axis.errorbar(
            [value for value, _ in values], places, xerr=[error for _, error in values], fmt="o",
            color=COLORS[1], markersize=style.marker, capsize=0.45 * style.marker, elinewidth=0.8,
        )  # fmt: skip
        axis.set_yticks(list(places), [literal(row.method) for row in view.rows])
        axis.set_ylim(-0.6, len(view.rows) - 0.4)
        axis.set_xlabel(better(view, style))
        axis.grid(alpha=0.3, axis="x")
        set_title(made.figure, view.title, style, made.beside)
    return made.figure


def _overview(
    axis: Axes,
    view: TableView,
    pairs: Sequence[tuple[str, TableRow]],
    look: Mapping[str, Look],
    width: float,
    style: Style,
) -> dict[str, object]:
    """All rows over their cost, `width` inches wide; returns what the legend shows of each series."""
    front = pareto_front([row for _, row in pairs], view.lower)
    (band,) = axis.plot(
        [row.cost for row in front], [headline(row)[0] for row in front],
        color="0.85", linewidth=1.8 * style.marker, solid_capstyle="round", zorder=0,
    )  # fmt: skip
    handles: dict[str, object] = {"Pareto front": band}
    names = list(dict.fromkeys(name for name, _ in pairs))
    for number, name in enumerate(names):
        points = sorted((row for other, row in pairs if other == name), key=lambda row: row.cost)
        several = len({row.cost for row in points}) < len(points)  # of one cost: no line through them
        beside = 1 + DODGE * (number - len(names) / 2)
        at = [row.cost * beside for row in points]
        handles[name] = bars(axis, at, points, look[name], name, style, line=not several)
    number_axes(axis, [row for _, row in pairs], "network evaluations an image (NFE)", width, style)
    return handles


def _side_by_side(
    axis: Axes, view: TableView, pairs: Sequence[tuple[str, TableRow]], look: Mapping[str, Look], style: Style
) -> None:
    """The rows of each cost beside each other, so that none hides another."""
    if not pairs:
        axis.set_axis_off()
        return
    costs = sorted({round(row.cost) for _, row in pairs})
    front = pareto_front([row for _, row in pairs], view.lower)
    names = list(dict.fromkeys(name for name, _ in pairs))
    for position, cost in enumerate(costs):
        here = [pair for pair in pairs if round(pair[1].cost) == cost]
        here.sort(key=lambda pair: names.index(pair[0]))
        for slot, (name, row) in enumerate(here):
            x = position + 0.86 * ((slot + 0.5) / len(here) - 0.5)
            bars(axis, [x], [row], look[name], name, style, line=False)
            if row in front:
                axis.plot(x, headline(row)[0], "o", color="0.85", markersize=2.6 * style.marker, zorder=0)
        if position:
            axis.axvline(position - 0.5, color="0.8", linewidth=0.8)
    axis.set_xlim(-0.5, len(costs) - 0.5)
    axis.set_xticks(range(len(costs)), [str(cost) for cost in costs])
    _value_axis(axis, [headline(row)[0] for _, row in pairs])
    axis.set_xlabel(f"NFE, from {costs[0]} on, side by side")
    axis.tick_params(labelsize=style.size)
    axis.grid(alpha=0.3, axis="y")


def bars(
    axis: Axes,
    x: Sequence[float],
    rows: Sequence[TableRow],
    look: Look,
    name: str,
    style: Style,
    *,
    line: bool,
) -> ErrorbarContainer:
    return axis.errorbar(
        x, [headline(row)[0] for row in rows], yerr=[headline(row)[1] for row in rows],
        color=look.color, marker=look.marker, linestyle=look.line if line else "none", label=literal(name),
        markersize=style.marker, capsize=0.45 * style.marker, elinewidth=0.8,
    )  # fmt: skip


def number_axes(axis: Axes, rows: Sequence[TableRow], xlabel: str, wide: float, style: Style) -> None:
    """A logarithmic abscissa with its values as plain numbers, `wide` inches; values logarithmic where they
    can be."""
    every = sorted({(row.steps or 0) if xlabel == "steps" else round(row.cost) for row in rows})
    axis.set(xlabel=xlabel, xscale="log")
    ticks = thinned(every, wide if style.width is None else style.width - 0.7, style)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    _value_axis(axis, [headline(row)[0] for row in rows], wide=1.0)
    axis.tick_params(labelsize=style.size)
    axis.grid(alpha=0.3)


def _value_axis(axis: Axes, values: Sequence[float], wide: float = WIDE) -> None:
    """Logarithmic with plain numbers for positive values that differ by `wide` or more."""
    if min(values) > 0 and max(values) >= wide * min(values):
        logarithmic(axis, values)


def logarithmic(axis: Axes, values: Sequence[float] = ()) -> None:
    """A logarithmic ordinate with plain numbers: 1, 2, 5 and their decades, and more where fewer than two of
    those lie among the values."""
    few = LogLocator(subs=(1, 2, 5))
    axis.set_yscale("log")
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    narrow = low > 0 and sum(low <= tick <= high for tick in few.tick_values(low, high)) < 2
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, *range(2, 10))) if narrow else few)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def panel_title(axis: Axes, guidance: str, count: int, width: float, style: Style) -> None:
    """On paper a single panel has no title."""
    if style.titled or count > 1:
        set_panel_title(axis, guidance, width if style.width is None else style.width - 0.6, style)


def better(view: TableView, style: Style) -> str:
    title = next(iter(view.rows[0].metrics.values()))[0]
    text = f"{title} ({'lower' if view.lower else 'higher'} is better)"
    return literal(wrapped(text, 3.2 if style.width is None else 1.6, style.size))


def pareto_front(rows: Sequence[TableRow], lower: bool = True) -> list[TableRow]:
    """The rows that no other of the same or lower cost beats in the headline metric, by cost."""
    front: list[TableRow] = []
    for row in sorted(rows, key=lambda row: (row.cost, headline(row)[0] if lower else -headline(row)[0])):
        if not front or (headline(row)[0] < headline(front[-1])[0]) == lower:
            front.append(row)
    return front


def headline(row: TableRow) -> Estimate:
    return next(iter(row.metrics.values()))[1]


def sample_sheet(
    rows: Mapping[str, np.ndarray], title: str, columns: Sequence[str], style: Style = SCREEN
) -> Figure:
    """One row of images a method, same seeds side by side. rows: label -> uint8 [N, H, W, C].

    The sheet is as wide as its images and labels need; on paper a column wide, with the first images only.
    """
    count = max(len(images) for images in rows.values())
    small = style.small
    labels = {label: wrapped(label, 3.0 if style.width is None else 1.0, small) for label in rows}
    across = max(text_width(line, small) for label in labels.values() for line in label.split("\n")) + MARGIN
    cell = max([0.62, *(text_width(text, small - 1) + 0.08 for text in columns[:count])])
    if style.width is not None:
        count = min(count, PAPER_SHEET)
        cell = (style.width - across - 0.05) / count
    line_height = 1.35 * small / 72
    tall = max(cell, *(line_height * (label.count("\n") + 1) for label in labels.values()))
    width = across + cell * count + 0.05
    heading = wrapped(title, width - 2 * MARGIN, small + 2) if style.titled else ""
    top = 0.1 + (heading.count("\n") + 1) * 1.3 * (small + 2) / 72 * bool(heading) + line_height
    height = top + tall * len(rows) + 0.05
    figure = plt.figure(figsize=(width, height))
    for number, (label, images) in enumerate(rows.items()):
        for column in range(count):
            bottom = height - top - tall * (number + 0.5) - 0.475 * cell
            axis = figure.add_axes(
                (
                    (across + cell * (column + 0.025)) / width, bottom / height,
                    0.95 * cell / width, 0.95 * cell / height,
                )
            )  # fmt: skip
            axis.set(xticks=[], yticks=[])
            if column < len(images):
                gray = images.shape[-1] == 1
                image = images[column, ..., 0] if gray else images[column]
                # Smoothed, a sheet of 32x32 photographs is a file three times as large.
                smoothing = "nearest" if len(image) <= SHARP else None
                color = "gray" if gray else None
                axis.imshow(image, cmap=color, vmin=0, vmax=255, interpolation=smoothing)
            if column == 0:
                axis.set_ylabel(literal(labels[label]), rotation=0, ha="right", va="center", fontsize=small)
            if number == 0 and column < len(columns):
                fits = text_width(columns[column], small - 1) <= cell
                axis.set_title(literal(columns[column]) if fits else "", fontsize=max(small - 1, 7), pad=2)
    if heading:
        figure.suptitle(literal(heading), fontsize=small + 2, y=1 - 0.06 / height, va="top")
    return figure


def draw(view: TableView, name: str, style: Style = SCREEN) -> Figure:
    """The picture of a table that its file names."""
    module, _, function = FIGURES[name].partition(":")
    figure: Figure = getattr(importlib.import_module(module), function)(view, style)
    return figure


def to_bytes(figure: Figure, form: str) -> bytes:
    """The figure as a PNG, SVG or PDF file; the same bytes each time it is drawn with one matplotlib."""
    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {"Software": None})
    dpi = 150 if figure.get_figwidth() > 3.5 else 300
    with matplotlib.rc_context({"svg.hashsalt": "erk-bench", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=form, dpi=dpi, metadata=metadata)
    plt.close(figure)
    return buffer.getvalue()
