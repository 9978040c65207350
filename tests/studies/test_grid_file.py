"""Grids: their files, axes, cells and the trees of runs that share trajectories."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from erk_bench.base.config_files import config_folder
from erk_bench.base.errors import UserError
from erk_bench.base.fields import identity_fields
from erk_bench.commands.compose_studies import grid_cells, grid_file
from erk_bench.reporting.grid_views import label, short
from erk_bench.studies.grid_file import Cell, Grid, check_cells, read_grid, trees
from tests.conftest import slow_but

GRIDS = [file.stem for file in sorted((config_folder() / "grid").glob("*.yaml"))]
STEPS, W_STIFF, W_CON = "schedule.num_steps", "correction.w_stiff", "correction.w_con"

CONTENT: dict[str, Any] = {
    "name": "small",
    "title": "A small grid",
    "caption": "Two\n  lines.",
    "base": ["track=digits", "correction=erk_guid", "metrics.names=[fd_digits]"],
    "axes": {STEPS: [4, 6], W_STIFF: [0.5, 1.0], W_CON: [0.0, 0.25]},
    "panels": ["fd_digits"],
}


def grid_of(tmp_path: Path, leave_out: Sequence[str] = (), **changes: Any) -> Grid:
    """The grid of CONTENT with changes, read from a file."""
    content = {key: value for key, value in {**CONTENT, **changes}.items() if key not in leave_out}
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return read_grid(file)


def cells_of(grid: Grid, *overrides: str) -> list[Cell]:
    return grid_cells(grid, overrides, fetch=False)[1]


@cache
def composed(name: str) -> tuple[Grid, list[Cell]]:
    """A grid of configs/grid/ and its cells."""
    return grid_cells(grid_file(name), [], fetch=False)


def test_a_file_is_read(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    assert grid == Grid(
        name="small",
        title="A small grid",
        caption="Two lines.",
        base=tuple(CONTENT["base"]),
        axes={STEPS: ("4", "6"), W_STIFF: ("0.5", "1"), W_CON: ("0", "0.25")},
        panels=("fd_digits",),
        x=W_CON,
        curves=W_STIFF,
    )
    assert grid.others == (STEPS,)


@pytest.mark.parametrize(
    ("drawn", "x", "curves"),
    [
        ({}, W_CON, W_STIFF),
        ({"x": STEPS}, STEPS, W_CON),
        ({"curves": W_CON}, W_STIFF, W_CON),
        ({"x": W_STIFF, "curves": STEPS}, W_STIFF, STEPS),
        ({"axes": {STEPS: [4]}}, STEPS, None),
    ],
)
def test_drawn_axes(drawn: dict[str, Any], x: str, curves: str | None, tmp_path: Path) -> None:
    """As the file says, else the last and the one before."""
    grid = grid_of(tmp_path, **drawn)
    assert (grid.x, grid.curves) == (x, curves)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (0.25, "0.25"), (3, "3"), (True, "true"), (1e-07, "1e-07"), (0.12345678, "0.12345678"),
     ("heun", "heun"), (12345678.5, "12345678.5")],
)  # fmt: skip
def test_values_keep_their_digits(value: object, text: str, tmp_path: Path) -> None:
    assert grid_of(tmp_path, axes={W_CON: [value]}).axes[W_CON] == (text,)


@pytest.mark.parametrize("name", ["name", "title", "caption", "base", "axes", "panels"])
def test_every_entry_is_needed(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"lacks '{name}'; see configs/grid/digits.yaml"):
        grid_of(tmp_path, leave_out=[name])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"axis": {}}, "unknown entry of the grid .*'axis'; did you mean 'axes'?"),
        ({"axes": {}}, "has axes {}, so it is empty"),
        ({"axes": None}, "has axes None, so it is empty"),
        ({"axes": [STEPS]}, "give KEY: \\[VALUES\\]"),
        ({"axes": {STEPS: []}}, f"axis '{STEPS}' of grid 'small' has no values, so the grid is empty"),
        ({"axes": {STEPS: 4}}, f"has axis {STEPS} 4, not a list of values"),
        ({"axes": {STEPS: [4, None]}}, "not a list of values"),
        ({"axes": {STEPS: [[4, 6]]}}, "not a list of values"),
        ({"axes": {None: [4]}}, "has axis None, not the name of a setting"),
        ({"axes": {3: [4]}}, "has axis 3, not the name of a setting"),
        ({"axes": {STEPS: [4, 6, 4]}}, f"axis '{STEPS}' of grid 'small' has 4 more than once"),
        ({"axes": {W_CON: [1, 1.0]}}, "has 1 more than once"),
        ({"panels": ["fd_digit"]}, "the grid .*: unknown metric 'fd_digit'; did you mean 'fd_digits'?"),
        ({"panels": []}, "has panels \\[\\], not a list of metrics"),
        ({"panels": "fd_digits"}, "has panels 'fd_digits', not a list of metrics"),
        ({"x": "correction.wcon"}, f"unknown axis in the grid .*wcon'; did you mean '{W_CON}'?"),
        ({"x": [W_CON]}, "unknown axis in the grid"),
        ({"curves": "solver"}, "unknown axis in the grid .* 'solver'"),
        ({"x": W_CON, "curves": W_CON}, f"has x and curves both '{W_CON}'; name two axes"),
        ({"axes": {W_CON: [1]}, "curves": W_CON}, f"has curves '{W_CON}', its only axis; call it x"),
        ({"base": "track=digits"}, "has base 'track=digits', not a list of KEY=VALUE texts"),
        ({"base": [1]}, "has base \\[1\\]"),
        ({"title": 3}, "has title 3, not a text"),
    ],
)
def test_broken_files_are_told(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        grid_of(tmp_path, **changes)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"[1, 2", "cannot read the grid"), (b"", "is no mapping"), (b"- a\n", "is no mapping"),
     (b"\xff\xfe\x00", "cannot read the grid"), (None, "which is no file; check the path")],
)  # fmt: skip
def test_what_is_no_grid_file(content: bytes | None, told: str, tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=told):
        grid_file(str(file))


def test_unknown_grid_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown grid 'figure4'; did you mean 'figure4_"):
        grid_file("figure4")


def test_panels_have_one_name(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, panels=["fd@digits", "recall@dinov2_torch"])
    assert grid.panels == ("fd_digits", "recall@dinov2_torch")


def test_places_are_in_the_order_of_the_axes(tmp_path: Path) -> None:
    places = grid_of(tmp_path).places()
    assert [tuple(place.values()) for place in places] == [
        ("4", "0.5", "0"), ("4", "0.5", "0.25"), ("4", "1", "0"), ("4", "1", "0.25"),
        ("6", "0.5", "0"), ("6", "0.5", "0.25"), ("6", "1", "0"), ("6", "1", "0.25"),
    ]  # fmt: skip
    assert list(places[0]) == [STEPS, W_STIFF, W_CON]


def test_labels() -> None:
    assert label({STEPS: "8", W_STIFF: "0.5", "guidance.weight": "2", "solver": "heun"}) == (
        "8 steps, w_stiff 0.5, guidance weight 2, solver heun"
    )
    assert label({}) == ""
    assert [short(key) for key in (STEPS, W_CON, "model.weights.path", "solver")] == [
        "steps", "w_con", "path", "solver",
    ]  # fmt: skip


def test_axes_are_replaced_or_added(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    changed = grid.with_axes({W_CON: ["2"], "solver": ["heun"]})
    assert changed.axes == {STEPS: ("4", "6"), W_STIFF: ("0.5", "1"), W_CON: ("2",), "solver": ("heun",)}
    assert changed.others == (STEPS, "solver")
    assert dataclasses.replace(changed, axes=grid.axes) == grid
    with pytest.raises(UserError, match="so the grid is empty"):
        grid.with_axes({W_CON: []})
    with pytest.raises(UserError, match="has 2 more than once"):
        grid.with_axes({W_CON: ["2", "2"]})


def test_cells_have_the_settings_of_their_place(tmp_path: Path) -> None:
    for cell in cells_of(grid_of(tmp_path), "seeds=5-9"):
        assert cell.spec.schedule.num_steps == int(cell.place[STEPS])
        assert cell.spec.correction.w_stiff == float(cell.place[W_STIFF])
        assert cell.spec.correction.w_con == float(cell.place[W_CON])
        assert cell.spec.seeds == "5-9"


@pytest.mark.parametrize(
    ("overrides", "axes"),
    [
        ([f"{W_STIFF}=0.75"], {STEPS: ("4", "6"), W_STIFF: ("0.75",), W_CON: ("0", "0.25")}),
        ([f"{W_STIFF}=2,3"], {STEPS: ("4", "6"), W_STIFF: ("2", "3"), W_CON: ("0", "0.25")}),
        ([f"{STEPS}=5", f"{W_CON}=1,2"], {STEPS: ("5",), W_STIFF: ("0.5", "1"), W_CON: ("1", "2")}),
        ([f"{STEPS}=5", f"{STEPS}=7"], {STEPS: ("7",), W_STIFF: ("0.5", "1"), W_CON: ("0", "0.25")}),
        (
            ["class_label=1,2"],
            {STEPS: ("4", "6"), W_STIFF: ("0.5", "1"), W_CON: ("0", "0.25"), "class_label": ("1", "2")},
        ),
        (
            ["guidance.interval=[0.1,1],[0.2,1]", "guidance=cfg"],
            {STEPS: ("4", "6"), W_STIFF: ("0.5", "1"), W_CON: ("0", "0.25"),
             "guidance.interval": ("[0.1,1]", "[0.2,1]")},
        ),
    ],
)  # fmt: skip
def test_settings_replace_and_add_axes(
    overrides: list[str], axes: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    grid, cells = grid_cells(grid_of(tmp_path), overrides, fetch=False)
    assert grid.axes == axes
    assert [cell.place for cell in cells] == grid.places()
    assert len({cell.spec.run_id for cell in cells}) == len(cells)


def test_a_group_is_an_axis(tmp_path: Path) -> None:
    cells = cells_of(grid_of(tmp_path), "guidance=none,cfg")
    found = [(cell.place["guidance"], cell.spec.guidance.name, cell.spec.guidance.weight) for cell in cells]
    assert found[:2] == [("none", "none", 1.0), ("cfg", "cfg", 1.25)] and len(found) == 16
    assert [len(tree) for tree in trees(cells)] == [5, 5, 5, 5]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["correction.w_stif=1,2"], f"unknown setting 'correction.w_stif'; did you mean '{W_STIFF}'"),
        (["correction.w_stif=1"], f"unknown setting 'correction.w_stif'; did you mean '{W_STIFF}'"),
        (["solver=heun,euler"], "solver 'euler' has no embedded pair for correction 'erk_guid'"),
        (["solver=heun,huen"], "unknown solver 'huen'; did you mean 'heun'"),
        ([f"{W_STIFF}=0,1"], "'4 steps, w_stiff 0, w_con 0' and '4 .* both the plain solver"),
        (["seeds=0-9,10-19"], "seeds cannot be an axis"),
        (["device=auto,cpu"], "axis 'device' has equal values or does not change the samples"),
        ([f"{W_STIFF}=0.5,0.50"], "has 0.5 more than once"),
        ([f"{W_STIFF}=1,-1"], "correction.w_stiff is -1"),
        ([f"{W_STIFF}="], "correction.w_stiff is ''"),
        (["+class_label=1,2"], "'\\+class_label=1,2' is no setting; write KEY=VALUE"),
        (["metrics.names=[recall_digits]"], "shows 'fd_digits', but metrics.names is \\[recall_"),
    ],
)  # fmt: skip
def test_cells_that_cannot_be(overrides: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        cells_of(grid_of(tmp_path), *overrides)


def test_one_plain_cell_is_fine(tmp_path: Path) -> None:
    cells = cells_of(grid_of(tmp_path), f"{W_STIFF}=0,1", f"{W_CON}=0.25", f"{STEPS}=4")
    assert [spec.correction.w_stiff for spec in trees(cells)[0]] == [0, 1]


def test_equal_runs_are_told_whatever_their_axes(tmp_path: Path) -> None:
    """Two texts of one number are told by the cells, not only by the texts."""
    grid = grid_of(tmp_path)
    first, *rest = cells_of(grid)
    twice = Cell({**first.place, W_CON: "0.0"}, first.spec)
    with pytest.raises(UserError, match=f"same run {first.spec.slug}; axis '{W_CON}' has equal values"):
        check_cells(grid, [first, *rest, twice])


def test_trees_are_led_by_their_baseline(tmp_path: Path) -> None:
    """One for each combination of the axes that are not the correction's."""
    cells = cells_of(grid_of(tmp_path), "class_label=1,2")
    grown = trees(cells)
    assert [(tree[0].schedule.num_steps, tree[0].class_label) for tree in grown] == [
        (4, 1), (4, 2), (6, 1), (6, 2),
    ]  # fmt: skip
    for tree in grown:
        assert tree[0].correction.name == "none"
        assert all(spec.baseline == tree[0] for spec in tree)
        assert [(spec.correction.w_stiff, spec.correction.w_con) for spec in tree[1:]] == [
            (0.5, 0), (0.5, 0.25), (1, 0), (1, 0.25),
        ]  # fmt: skip
    assert sum(map(len, grown)) == len(cells) + 4


def test_trees_without_correction_are_single_runs(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, base=CONTENT["base"][::2], axes={"solver": ["euler", "heun"], STEPS: [4, 6]})
    grown = trees(cells_of(grid))
    assert [[spec.slug for spec in tree] for tree in grown] == [
        ["digits-euler4"], ["digits-euler6"], ["digits-heun4"], ["digits-heun6"],
    ]  # fmt: skip


@pytest.mark.parametrize("name", slow_but(GRIDS, {"digits", "cifar32", "figure4_16"}))
def test_every_grid_composes(name: str) -> None:
    grid, cells = composed(name)
    assert grid.name == name and len(cells) == len(grid.places()) > 0
    assert set(grid.panels) <= set(cells[0].spec.metrics.names)
    specs = [spec for tree in trees(cells) for spec in tree]
    assert len({json.dumps(identity_fields(spec)) for spec in specs}) == len(specs)
    corrected = [cell for cell in cells if cell.spec.correction.w_stiff]
    assert len(specs) == len(corrected) + len(trees(cells))  # plain cells are their own baselines


def test_runs_of_the_digits_grid_are_pinned() -> None:
    """A change here makes earlier results of the grid useless, and must be meant."""
    cells = composed("digits")[1]
    assert len(cells) == 96 and [len(tree) for tree in trees(cells)] == [49, 49]
    assert cells[0].spec.run_id == "digits-heun6-erk_guid0.25c0-80fe945312"
    assert cells[-1].spec.run_id == "digits-heun8-erk_guid3c2-af1621d3be"
