"""A grid's results as values, CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from erk_bench.reporting.table_views import DASH, Estimate, rounded

# How an axis is called where there is little room; others by the last part of their key.
SHORT = {"schedule.num_steps": "steps", "guidance.weight": "guidance weight"}


def short(key: str) -> str:
    """What an axis is called in figures and tables."""
    return SHORT.get(key, key.rpartition(".")[2])


def label(place: Mapping[str, str]) -> str:
    """'8 steps, w_stiff 0.5' for some values of a cell."""
    parts = [
        f"{value} steps" if short(key) == "steps" else f"{short(key)} {value}" for key, value in place.items()
    ]
    return ", ".join(parts)


@dataclass(frozen=True)
class GridPoint:
    """A cell's results. place: its value on every axis. metrics, baseline: by metric, of the cell and of its
    plain solver; differences: the paired ones, empty for a plain solver, and the verdict on the headline."""

    place: Mapping[str, str]
    run_id: str
    nfe: float
    nfe_guide: float
    metrics: Mapping[str, Estimate]
    baseline: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    verdict: str


class Best(NamedTuple):
    """The best cell of a panel, the next that differs from it, and the paired difference of that one."""

    point: GridPoint
    runner_up: GridPoint | None
    margin: Estimate | None


@dataclass(frozen=True)
class GridPanel:
    """The cells that one panel of a figure shows. place: their common values of the other axes."""

    place: Mapping[str, str]
    points: tuple[GridPoint, ...]
    best: Best

    @property
    def baseline(self) -> Mapping[str, Estimate] | None:
        """The plain solver's metrics; None where its cells have several plain solvers."""
        first = self.points[0].baseline
        return first if all(point.baseline == first for point in self.points) else None


@dataclass(frozen=True)
class GridView:
    """A grid ready to be shown. x, curves: axes of abscissa and curves. titles, lower: by metric, the
    headline first; lower values are better or not."""

    title: str
    caption: str
    axes: Mapping[str, tuple[str, ...]]
    x: str
    curves: str | None
    titles: Mapping[str, str]
    lower: Mapping[str, bool]
    panels: tuple[GridPanel, ...]

    @property
    def headline(self) -> str:
        return next(iter(self.titles))

    @property
    def points(self) -> list[GridPoint]:
        return [point for panel in self.panels for point in panel.points]


def grid_csv(view: GridView) -> str:
    """Everything that the figures show, with full precision; one line a cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    parts = ("", "_se", "_baseline", "_baseline_se", "_difference", "_difference_se")
    writer.writerow(
        [*view.axes, "nfe", "nfe_guide", *(name + part for name in view.titles for part in parts), "verdict",
         "best", "run_id"]
    )  # fmt: skip
    best = {panel.best.point.run_id for panel in view.panels}
    for point in view.points:
        numbers = [
            number
            for name in view.titles
            for number in (
                *point.metrics[name],
                *point.baseline[name],
                *point.differences.get(name, ("", "")),
            )
        ]
        writer.writerow(
            [*point.place.values(), point.nfe, point.nfe_guide, *numbers, point.verdict,
             int(point.run_id in best), point.run_id]
        )  # fmt: skip
    return buffer.getvalue()


def grid_markdown(view: GridView, notes: list[str]) -> str:
    """GitHub Markdown: what was found, and one line a cell."""
    headline = view.headline
    titles = list(view.titles.values())
    headers = [*(key.rpartition(".")[2] for key in view.axes), *titles, f"Δ {titles[0]}", "verdict"]
    lines = [f"# {view.title}", "", *(f"- {note}" for note in notes), ""]
    lines += ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    best = {panel.best.point.run_id for panel in view.panels}
    for point in view.points:
        shown = [rounded(point.metrics[name]) for name in view.titles]
        if point.run_id in best:
            shown[0] = f"**{shown[0]}**"
        difference = rounded(point.differences[headline], "+") if point.differences else DASH
        cells = [*point.place.values(), *shown, difference, point.verdict or DASH]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"{view.caption} Bold: the best cell of a panel."]) + "\n"
