"""Forest plot of comparisons: each difference with its 95% interval, a panel a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from erk_bench.reporting.comparison_views import ComparisonRow, ComparisonView, shown_difference
from erk_bench.reporting.series import BLUE, VERMILLION
from erk_bench.reporting.styles import (
    MARGIN,
    SCREEN,
    Style,
    literal,
    set_panel_title,
    set_title,
    text_width,
    typeset,
    wrapped,
)

WIDTH_95 = 1.96  # standard errors on either side of a 95% interval
MOST_ROWS = 40  # of a panel; more are in the table only
ACROSS = 3  # panels beside each other on a screen
FAR = 8.0  # times the median distance from zero: beyond, a line is an arrow at the edge, so that others show
NEAR = 4.0  # times that distance which the axis then reaches
COLOURS = {"better": BLUE, "worse": VERMILLION}
OPEN = "0.45"  # grey, of what is not resolved


def forest_figure(view: ComparisonView, style: Style = SCREEN) -> Figure:
    """A panel a metric, a line a pair of records; zero is the baseline, and its better side is tinted.

    Blue is better, orange worse, grey and hollow not resolved. Where there is one pair, the panels are lines
    of one column.
    """
    pairs = list(dict.fromkeys((row.record, row.baseline) for row in view.rows))
    lines = {pair: place for place, pair in enumerate(pairs[:MOST_ROWS])}
    shown = [row for row in view.rows if (row.record, row.baseline) in lines]
    panels = [
        {lines[row.record, row.baseline]: row for row in shown if row.metric == metric}
        for metric in dict.fromkeys(row.metric for row in shown)
    ]
    single = len(pairs) == 1
    across = 1 if single or style.width is not None else min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    with typeset(style):
        room = 2.4 if style.width is None else 0.85
        labels = [
            _labels([_metric(rows[0])] if single else _names(list(lines)), room, style, single=single)
            for rows in panels
        ]
        tall = [_height(texts, style) for texts in labels]
        heights = [max(tall[line * across : (line + 1) * across]) for line in range(down)]
        wide = 3.1 * across + room + 0.3 if style.width is None else style.width
        if single and style.width is None:
            wide = 7.0
        figure, axes = plt.subplots(
            down, across, figsize=(wide, sum(heights) + 0.9), squeeze=False, layout="constrained",
            gridspec_kw={"height_ratios": heights},
        )  # fmt: skip
        for number, axis in enumerate(axes.flat):
            if number >= len(panels):
                axis.set_axis_off()
                continue
            texts = labels[number] if number % across == 0 else [""] * len(lines)
            _panel(axis, panels[number], texts, style, single=single)
        drawn = [list(rows.values()) for rows in panels]
        _legend(figure, drawn, style, len(pairs) - MOST_ROWS, corrected=view.corrected)
        set_title(figure, view.title, style)
    return figure


def _names(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """What each line is called: its record, and its baseline where there are several."""
    several = len({baseline for _, baseline in pairs}) > 1
    return [f"{record} − {baseline}" if several else record for record, baseline in pairs]


def _labels(texts: Sequence[str], room: float, style: Style, *, single: bool) -> list[str]:
    """What stands left of each line, `room` inches wide."""
    size = style.size if single else style.small
    return [literal(wrapped(text, room, size)) for text in texts]


def _metric(row: ComparisonRow) -> str:
    return f"{row.title} ({'lower' if row.lower else 'higher'} is better)"


def _height(labels: Sequence[str], style: Style) -> float:
    """Inches of a panel: lines apart as the longest label needs, and its axis."""
    line = style.small * 1.35 / 72
    return len(labels) * line * max(label.count("\n") + 1.4 for label in labels) + 5.0 * style.small / 72


def _panel(
    axis: Axes, rows: Mapping[int, ComparisonRow], labels: Sequence[str], style: Style, *, single: bool
) -> None:
    """rows: by their line. labels: of every line; a record that lacks the metric has an empty one."""
    low, high = _range(list(rows.values()))
    axis.set(xlim=(low, high), ylim=(len(labels) - 0.4, -0.6))
    one = next(iter(rows.values()))
    better = (low, 0.0) if one.lower else (0.0, high)
    axis.axvspan(*better, color=BLUE, alpha=0.07, linewidth=0, zorder=0)
    axis.axvline(0.0, color="k", linewidth=0.9, zorder=1)
    for place, row in rows.items():
        _line(axis, place, row, (low, high), style)
    axis.set_yticks(range(len(labels)), labels)
    axis.tick_params(axis="y", length=0, labelsize=style.size if single else style.small)
    axis.tick_params(axis="x", labelsize=style.small)
    width = (3.0 if single else 1.4) if style.width is None else 1.25
    ticks = _ticks(low, high, width, style)
    axis.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axis.grid(alpha=0.25, axis="x")
    for side in ("top", "left", "right"):
        axis.spines[side].set_visible(False)
    if not single:
        set_panel_title(axis, _metric(one), 2.9 if style.width is None else 2.0, style)


def _range(rows: Sequence[ComparisonRow]) -> tuple[float, float]:
    """The ends of the axis: zero and every interval are inside, but for those far out."""
    spans = [_span(row) for row in rows]
    reach = [max(abs(low), abs(high)) for low, high in spans]
    bound = NEAR * median(reach) if max(reach) > FAR * median(reach) > 0 else max(reach)
    low = max(-bound, min(0.0, *(low for low, _ in spans)))
    high = min(bound, max(0.0, *(high for _, high in spans)))
    if low == high:
        return -1.0, 1.0
    pad = 0.08 * (high - low)
    return low - pad, high + pad


def _ticks(low: float, high: float, width: float, style: Style) -> list[float]:
    """Round numbers of an axis of `width` inches that do not touch."""
    for count in (4, 3, 2, 1):
        ticks = [float(f"{tick:.6g}") for tick in MaxNLocator(count).tick_values(low, high)]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) * max(text_width(f"{tick:g}", style.small) + 0.12 for tick in inside) <= width:
            break
    return inside


def _span(row: ComparisonRow) -> tuple[float, float]:
    """The ends of the interval, as far as they are numbers."""
    value, error = row.difference
    if not math.isfinite(value):
        return 0.0, 0.0
    reach = WIDTH_95 * error if math.isfinite(error) else 0.0
    return value - reach, value + reach


def _line(axis: Axes, place: int, row: ComparisonRow, ends: tuple[float, float], style: Style) -> None:
    """Interval, marker (an arrow where it lies beyond the `ends`), and the numbers at the right."""
    value = row.difference[0]
    colour = COLOURS.get(row.verdict, OPEN)
    resolved = row.verdict in COLOURS
    if math.isfinite(value):
        inside = ends[0] <= value <= ends[1]
        mark = "o" if inside else ("<" if value < 0 else ">")
        axis.plot(_span(row), (place, place), color=colour, linewidth=2.0 if resolved else 1.2, zorder=2)
        axis.plot(
            min(max(value, ends[0]), ends[1]), place, mark, color=colour, markersize=style.marker + 1,
            zorder=3, markerfacecolor=colour if resolved else "w", clip_on=inside,
        )  # fmt: skip
    told = "" if style.width is not None or row.verdict == "not resolved" else f"  {row.verdict}"
    axis.annotate(
        literal(f"{shown_difference(row)}{told}"), (1.0, place), xycoords=("axes fraction", "data"),
        xytext=(6, 0), textcoords="offset points", va="center", fontsize=style.small, color=colour,
        fontweight="bold" if resolved else "normal",
    )  # fmt: skip


def _legend(
    figure: Figure,
    panels: Sequence[Sequence[ComparisonRow]],
    style: Style,
    left_out: int,
    *,
    corrected: bool,
) -> None:
    """What is drawn, below the panels."""
    more = f"; {left_out} more lines a metric are in the table" if left_out > 0 else ""
    beyond = any(
        math.isfinite(row.difference[0]) and not _range(rows)[0] <= row.difference[0] <= _range(rows)[1]
        for rows in panels
        for row in rows
    )
    holm = " after Holm's correction" if corrected else ""
    arrows = "; arrow: beyond the axis" if beyond else ""
    text = (
        "value minus baseline with 95% interval; tinted: the better side; blue: better, orange: worse, "
        f"hollow: not resolved{holm}{arrows}{more}"
    )
    width = figure.get_figwidth() - 2 * MARGIN
    figure.supxlabel(wrapped(text, width, style.small), fontsize=style.small)
