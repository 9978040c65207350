"""How fast solver errors fall with the evaluations that are spent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from erk_bench.reporting.series import looks, series_names
from erk_bench.reporting.styles import SCREEN, Style, literal, panels, place_legend, set_title, typeset
from erk_bench.reporting.table_figures import (
    bars,
    better,
    given_figure,
    headline,
    number_axes,
    panel_title,
    parted,
)
from erk_bench.reporting.table_views import TableRow, TableView

FITTED = 3  # points of a slope: order shows at many evaluations


def slope(rows: Sequence[TableRow]) -> float | None:
    """How fast the error of one method falls, as a power of the evaluations: 2 is a quarter for twice as
    many.

    Least squares through the logarithms of its last FITTED points that are clear of all floors; None for
    fewer than two.
    """
    clear = [
        (math.log(row.cost), math.log(value))
        for row in sorted(rows, key=lambda row: row.cost)
        if (value := headline(row)[0]) > max((floor.clear for floor in row.floors.values()), default=0.0)
    ][-FITTED:]
    if len({cost for cost, _ in clear}) < 2:
        return None
    cost, error = np.array(clear).T
    return -float(np.polyfit(cost, error, 1)[0])


def convergence_figure(view: TableView, style: Style = SCREEN) -> Figure:
    """The headline metric against evaluations, both logarithmic: one panel a guidance, one line a series.

    The legend has the slope of each series, in the order of the panels, and the order of its solver. Dotted
    lines are floors, near which the errors do not tell of the solver.
    """
    sampled, _ = parted(view)
    if not sampled:
        return given_figure(view, style)
    guidances = list(dict.fromkeys(row.guidance for row in sampled))
    names = series_names(sampled, lambda row: row.cost)
    pairs = list(zip(names, sampled, strict=True))
    look = looks(names)
    labels = [f"{name}: {_slopes(name, pairs, guidances)}" for name in look]
    floors = list(dict.fromkeys(name for row in sampled for name in row.floors))
    with typeset(style):
        shape = (1, len(guidances)) if style.width is None else (len(guidances), 1)
        size = (4.6, 3.8) if style.width is None else (0.0, 2.2)
        made = panels(*shape, size, [*labels, *floors], style, sharey=True)
        handles: dict[str, object] = {}
        for axis, guidance in zip(itertools.chain(*made.axes), guidances, strict=True):
            here = [(name, row) for name, row in pairs if row.guidance == guidance]
            # A logarithmic axis has no zero: the solution itself is not drawn.
            seen = [(name, row) for name, row in here if headline(row)[0] > 0] or here
            for name in dict.fromkeys(name for name, _ in seen):
                points = sorted((row for other, row in seen if other == name), key=lambda row: row.cost)
                several = len({row.cost for row in points}) < len(points)
                costs = [row.cost for row in points]
                handles[name] = bars(axis, costs, points, look[name], name, style, line=not several)
            number_axes(
                axis, [row for _, row in seen], "network evaluations an image (NFE)", size[0] - 0.7, style
            )
            for number, floor in enumerate(floors):
                levels = {row.floors[floor].level for _, row in here if floor in row.floors}
                for level in levels:
                    dots = (0, (1, 1 + 2 * number))
                    handles[floor] = axis.axhline(level, color="0.45", linestyle=dots, label=literal(floor))
            panel_title(axis, guidance, len(guidances), size[0] - 0.5, style)
        for line in made.axes:
            line[0].set_ylabel(better(view, style))
        place_legend(made, [handles[name] for name in (*look, *floors) if name in handles], style)
        set_title(made.figure, view.title, style, made.beside)
    return made.figure


def _slopes(name: str, pairs: Sequence[tuple[str, TableRow]], guidances: Sequence[str]) -> str:
    """Of a series in each panel, and its solver's order."""
    mine = [row for other, row in pairs if other == name]
    found = [slope([row for row in mine if row.guidance == guidance]) for guidance in guidances]
    told = ", ".join("–" if value is None else f"{round(value, 1) + 0:.1f}" for value in found)
    order = mine[0].order
    return f"slope {told}" + (f", order {order}" if order else "")
