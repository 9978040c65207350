"""Figures of a site as plain values, which site/static/figures.js draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from erk_bench.reporting.grid_views import GridPanel, GridView, label, short
from erk_bench.reporting.series import looks, series_names
from erk_bench.reporting.site.content import SiteGrid, SiteTable
from erk_bench.reporting.table_views import NO_FIGURE, TableRow, rounded

# Markers of figures of matplotlib by plotly's names.
MARKERS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "X": "x",
    "P": "cross", "<": "triangle-left", "h": "hexagon", ">": "triangle-right",
}  # fmt: skip
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}
EVALUATIONS = "network evaluations an image"


def _looks(names: Sequence[str]) -> dict[str, dict[str, str]]:
    return {
        name: {"color": look.color, "symbol": MARKERS.get(look.marker, "star"), "dash": DASHES[look.line]}
        for name, look in looks(names).items()
    }


def table_figures(table: SiteTable) -> list[dict[str, Any]]:
    """The headline against steps or evaluations, a figure for each guidance.

    Of solver errors both axes are logarithmic, with each solver's order and the floors below which they do
    not tell of the solver.
    """
    view, convergence = table.view, table.figure == "convergence"
    rows = [row for row in view.rows if row.steps is not None and table.figure != NO_FIGURE]
    by_steps = table.figure == "steps"

    def abscissa(row: Any) -> float:
        return float(row.steps if by_steps else row.cost)

    names = series_names(rows, abscissa) if rows else []
    style = _looks(names)
    ids = dict(zip(map(id, view.rows), table.ids, strict=True))
    found = []
    for guidance in dict.fromkeys(row.guidance for row in rows):
        series: dict[str, list[Any]] = {}
        for name, row in zip(names, rows, strict=True):
            if row.guidance == guidance:
                series.setdefault(name, []).append(row)
        title, _ = next(iter(rows[0].metrics.values()))
        drawn = []
        for name, points in series.items():
            points = sorted(points, key=abscissa)
            values = [next(iter(row.metrics.values()))[1] for row in points]
            drawn.append({
                "name": f"{name} (order {points[0].order})" if convergence and points[0].order else name,
                "x": [abscissa(row) for row in points], "y": [value for value, _ in values],
                "e": [error for _, error in values], "text": [rounded(value) for value in values],
                "href": [f"../records/{ids[id(row)]}.html" for row in points], **style[name],
            })  # fmt: skip
        if convergence:
            drawn += _floors([row for row in rows if row.guidance == guidance])
        found.append({
            "title": guidance, "x": "steps" if by_steps else EVALUATIONS, "y": title,
            "logy": convergence or _spans_decades(drawn), "logx": convergence, "series": drawn,
        })  # fmt: skip
    return found


def _floors(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """Levels of solver errors, as horizontal lines."""
    ends = [min(row.cost for row in rows), max(row.cost for row in rows)]
    levels = {name: floor.level for row in rows for name, floor in row.floors.items()}
    return [
        {"name": name, "x": ends, "y": [level, level], "text": [f"{level:.2g}"] * 2, "color": "ink",
         "symbol": "line-ew", "dash": "dot", "lines": True}
        for name, level in levels.items()
    ]  # fmt: skip


def _spans_decades(series: Sequence[Mapping[str, Any]]) -> bool:
    """Whether values are positive and so far apart that only a logarithmic axis shows the small ones."""
    values = [value for each in series for value in each["y"] if math.isfinite(value)]
    return bool(values) and min(values) > 0 and max(values) > 20 * min(values)


def grid_figures(grid: SiteGrid) -> list[dict[str, Any]]:
    """Figure 4's curves of every metric, then a heat map of the headline, for each panel."""
    view = grid.view
    found = [_curves(grid, panel, name) for panel in view.panels for name in view.titles]
    if view.curves:
        found += [_heat(view, panel) for panel in view.panels]
    return found


def _curves(grid: SiteGrid, panel: GridPanel, metric: str) -> dict[str, Any]:
    view = grid.view
    values = list(view.axes[view.curves]) if view.curves else [""]
    style = _looks(values)
    drawn = list[dict[str, Any]]()
    for value in values:
        points = [point for point in panel.points if not view.curves or point.place[view.curves] == value]
        estimates = [point.metrics[metric] for point in points]
        drawn.append({
            "name": label({view.curves: value}) if view.curves else view.titles[metric],
            "x": [_number(point.place[view.x]) for point in points], "y": [each[0] for each in estimates],
            "e": [each[1] for each in estimates], "text": [rounded(each) for each in estimates],
            "href": [_href(grid.ids, point.run_id) for point in points], **style[value],
        })  # fmt: skip
    if panel.baseline:
        xs, plain = drawn[0]["x"], panel.baseline[metric]
        drawn.append({
            "name": "without correction", "x": xs, "y": [plain[0]] * len(xs),
            "text": [rounded(plain)] * len(xs),
            "color": "ink", "symbol": "line-ew", "dash": "dot", "lines": True,
        })  # fmt: skip
    return {
        "title": ", ".join(filter(None, (label(panel.place), view.titles[metric]))), "x": short(view.x),
        "y": view.titles[metric], "logx": False, "logy": _spans_decades(drawn), "series": drawn,
    }  # fmt: skip


def _heat(view: GridView, panel: GridPanel) -> dict[str, Any]:
    assert view.curves
    headline = view.headline
    xs, ys = view.axes[view.x], view.axes[view.curves]
    known = {(point.place[view.curves], point.place[view.x]): point for point in panel.points}
    cells = [[known.get((y, x)) for x in xs] for y in ys]
    best = panel.best.point.place
    return {
        "kind": "heat",
        "title": ", ".join(filter(None, (label(panel.place), f"heat map of {view.titles[headline]}"))),
        "x": short(view.x), "y": short(view.curves), "xs": list(xs), "ys": list(ys),
        "z": [[cell and cell.metrics[headline][0] for cell in line] for line in cells],
        "text": [[rounded(cell.metrics[headline]) if cell else "" for cell in line] for line in cells],
        "best": [best[view.x], best[view.curves]], "lower": view.lower[headline],
    }  # fmt: skip


def _href(ids: Mapping[str, str], run_id: str) -> str:
    return f"../records/{ids[run_id]}.html" if run_id in ids else ""


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
