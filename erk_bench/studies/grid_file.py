"""Grids: axes of settings, and the runs of their cells."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.fields import identity_fields
from erk_bench.base.file_names import check_file_name
from erk_bench.base.yaml_files import check_text, is_line, read_yaml
from erk_bench.evaluation.metrics import METRICS, check_metric
from erk_bench.reporting.grid_views import label
from erk_bench.spec import RunSpec

NEEDED = ("name", "title", "caption", "base", "axes", "panels")
KNOWN = (*NEEDED, "x", "curves")
EXAMPLE = "see configs/grid/digits.yaml"
MAX_CELLS = 10_000


@dataclass(frozen=True)
class Grid:
    """Axes of settings over a base run, and how their results are drawn.

    axes: values by setting, as texts, in the order of the columns. panels: metrics shown, the headline
    first. x, curves: the axes of a figure's abscissa and of its curves; one panel for each combination of the
    others.
    """

    name: str
    title: str
    caption: str
    base: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    panels: tuple[str, ...]
    x: str
    curves: str | None

    @property
    def others(self) -> tuple[str, ...]:
        """The axes that make panels."""
        return tuple(key for key in self.axes if key not in (self.x, self.curves))

    def places(self) -> list[dict[str, str]]:
        """The value on every axis of each cell, in order."""
        return [
            dict(zip(self.axes, values, strict=True)) for values in itertools.product(*self.axes.values())
        ]

    def with_axes(self, axes: Mapping[str, Sequence[str]]) -> Grid:
        """The same grid with axes replaced or added. Raises UserError for an empty grid."""
        joined = {**self.axes, **{key: tuple(values) for key, values in axes.items()}}
        for key, values in joined.items():
            if not values:
                raise UserError(f"axis '{key}' of grid '{self.name}' has no values, so the grid is empty")
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise UserError(f"axis '{key}' of grid '{self.name}' has {twice} more than once")
        cells = math.prod(map(len, joined.values()))
        if cells > MAX_CELLS:
            raise UserError(
                f"grid '{self.name}' has {cells:,} cells; at most {MAX_CELLS:,}: give its axes fewer values"
            )
        return dataclasses.replace(self, axes=joined)


class Cell(NamedTuple):
    """A cell of a grid: its value on every axis, and its run."""

    place: Mapping[str, str]
    spec: RunSpec


def read_grid(file: Path) -> Grid:
    """A grid file. Raises UserError naming what is missing, unknown or of the wrong kind."""
    content = read_yaml(file, "grid", EXAMPLE)

    def check(condition: bool, problem: str) -> None:
        if not condition:
            raise UserError(f"the grid '{file}' {problem}; {EXAMPLE}")

    check(isinstance(content, dict), "is no mapping of names to values")
    for name in content:
        if name not in KNOWN:
            raise unknown_name(f"entry of the grid '{file}'", name, KNOWN)
    for name in NEEDED:
        check(name in content, f"lacks '{name}'")
    for name in ("name", "title", "caption"):
        check_text(f"the grid '{file}'", name, content[name], EXAMPLE, several_lines=name == "caption")
    check_file_name(f"the name of the grid '{file}'", content["name"])
    check(_is_texts(content["base"]), f"has base {content['base']!r}, not a list of KEY=VALUE texts")
    axes = content["axes"]
    check(isinstance(axes, dict) and bool(axes), f"has axes {axes!r}, so it is empty; give KEY: [VALUES]")
    for key, values in axes.items():
        check(is_line(key), f"has axis {key!r}, not the name of a setting")
        listed = isinstance(values, list) and all(
            is_line(value) or isinstance(value, (int, float)) for value in values
        )
        check(listed, f"has axis {key} {values!r}, not a list of values")
    panels = content["panels"]
    check(_is_texts(panels) and bool(panels), f"has panels {panels!r}, not a list of metrics")
    for metric in panels:
        check_metric(metric, f"the grid '{file}'")
    drawn = _drawn_axes(list(axes), content.get("x"), content.get("curves"), file)
    grid = Grid(
        content["name"], content["title"], " ".join(content["caption"].split()), tuple(content["base"]), {},
        tuple(METRICS[metric].name for metric in panels), *drawn,
    )  # fmt: skip
    return grid.with_axes({key: tuple(_text(value) for value in values) for key, values in axes.items()})


def _drawn_axes(keys: Sequence[str], x: Any, curves: Any, file: Path) -> tuple[str, str | None]:
    """The axes of abscissa and curves: as the file says, else the last and the one before."""
    for name in (x, curves):
        if name is not None and name not in keys:
            raise unknown_name(f"axis in the grid '{file}'", str(name), keys)
    if x is not None and x == curves:
        raise UserError(f"the grid '{file}' has x and curves both '{x}'; name two axes; {EXAMPLE}")
    rest = [key for key in keys if key != curves]
    if not rest:
        raise UserError(f"the grid '{file}' has curves '{curves}', its only axis; call it x; {EXAMPLE}")
    x = x or rest[-1]
    rest = [key for key in keys if key != x]
    return x, curves or (rest[-1] if rest else None)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(is_line, value))


def _text(value: object) -> str:
    if isinstance(value, float):
        short_form = f"{value:g}"  # 1.0 is '1', but digits that a setting needs are not lost
        return short_form if float(short_form) == value else repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_cells(grid: Grid, cells: Sequence[Cell]) -> None:
    """Refuse cells that are the same run (their axis changes nothing, or is the baseline itself), or that do
    not measure what the grid shows."""
    for metric in grid.panels:
        names = cells[0].spec.metrics.names
        if metric not in names:
            raise UserError(
                f"grid '{grid.name}' shows '{metric}', but metrics.names is [{','.join(names)}]; add it "
                "there, or take it out of the panels"
            )
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(_identity(cell.spec.baseline if _is_plain(cell.spec) else cell.spec), cell)
        if other is cell:
            continue
        if _is_plain(cell.spec):
            raise UserError(
                f"the cells '{label(other.place)}' and '{label(cell.place)}' of grid '{grid.name}' are both "
                "the plain solver, because w_stiff is 0; leave 0 out: every grid has that baseline"
            )
        differing = [key for key in grid.axes if other.place[key] != cell.place[key]]
        raise UserError(
            f"the cells '{label(other.place)}' and '{label(cell.place)}' of grid '{grid.name}' are the same "
            f"run {cell.spec.slug}; axis '{differing[0]}' has equal values or does not change the samples"
        )


def _is_plain(spec: RunSpec) -> bool:
    return spec.correction.w_stiff == 0


def _identity(spec: RunSpec) -> str:
    """What tells runs apart, known before the weights are here."""
    return json.dumps(identity_fields(spec), sort_keys=True)


def trees(cells: Sequence[Cell]) -> list[list[RunSpec]]:
    """The runs that share trajectories, each group led by its baseline, without repetition."""
    groups: dict[str, dict[str, RunSpec]] = {}
    for cell in cells:
        base = cell.spec.baseline
        group = groups.setdefault(_identity(base), {_identity(base): base})
        if not _is_plain(cell.spec):
            group[_identity(cell.spec)] = cell.spec
    return [list(group.values()) for group in groups.values()]
