"""From a table or a grid and the user's words to the specs of its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from erk_bench.base.config_files import config_file, config_files, config_folder, is_own, is_path
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.commands.compose import run_spec, several_values
from erk_bench.commands.options import is_whole
from erk_bench.commands.settings import defaults, groups, names
from erk_bench.spec import RunSpec, SetSpec, Spec
from erk_bench.studies.grid_file import Cell, Grid, check_cells, read_grid
from erk_bench.studies.table_file import RowSpec, TableFile, check_rows, read_table

# Settings that decide what a row of a table computes; published values hold for the table's own only.
METHOD_SETTINGS = (
    "model", "solver", "schedule", "guidance", "correction", "class_label", "track", "metrics.reference",
    "metrics.real_features",
)  # fmt: skip


def table_file(name: str) -> TableFile:
    """configs/table/NAME.yaml, or the user's own file.

    name: NAME, TRACK/NAME for one of that track (NAME.yaml or TRACK-NAME.yaml), or a path ending in .yaml.
    """
    track, slash, plain = name.partition("/")
    if slash and not is_path(name):
        stems = [stem for stem in config_files("table") if f"track={track}" in table_file(stem).base]
        of_track = {stem.removeprefix(f"{track}-"): stem for stem in stems}
        if plain not in of_track:
            raise unknown_name(f"table of track '{track}'", plain, of_track)
        name = of_track[plain]
    file = config_file("table", name)
    return read_table(file) if is_own(file) else read_table(file, config_folder().parent)


def grid_file(name: str) -> Grid:
    """configs/grid/NAME.yaml, or the user's own file, by a path ending in .yaml."""
    return read_grid(config_file("grid", name))


def grid_cells(grid: Grid, overrides: Sequence[str], *, fetch: bool = True) -> tuple[Grid, list[Cell]]:
    """The grid under the user's settings, and its cells.

    A setting of an axis replaces its values; one with several values (KEY=A,B) becomes an axis.
    """
    axes, rest = dict[str, list[str]](), list[str]()
    for override in overrides:
        key, equals, value = override.partition("=")
        values = several_values(override) if equals and key == key.lstrip("+~-") else None
        if values is not None or key in grid.axes:
            axes[key] = [value] if values is None else values
        else:
            rest.append(override)
    grid = grid.with_axes(axes)
    known = [*groups(), *names(defaults())]
    for key in grid.axes:
        if key not in known and key.partition(".")[0] not in groups():
            raise unknown_name(f"axis of grid '{grid.name}'", key, known)
    if "seeds" in grid.axes:
        raise UserError("seeds cannot be an axis: the cells of a grid are compared on the same seeds")
    cells = []
    for place in grid.places():
        settings = [f"{key}={value}" for key, value in place.items()]
        cells.append(Cell(place, run_spec([*grid.base, *settings, *rest], fetch=fetch)))
    check_cells(grid, cells)
    return grid, cells


def _row_numbers(text: str, count: int) -> list[int]:
    """'0-3,7' as numbers below `count`; all of them for an empty text."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not (is_whole(first) and is_whole(last or first) and int(first) <= int(last or first) < count):
            raise UserError(f"rows is '{text}'; expected numbers from 0 to {count - 1}, for example 0-3,7")
        numbers += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(numbers)) or list(range(count))


def table_runs(
    table: TableFile, overrides: Sequence[str], rows: str = "", *, fetch: bool = True
) -> tuple[list[RowSpec], list[RunSpec]]:
    """The chosen rows of a table that are sampled, and their specs under the user's overrides.

    A row loses its published values where the overrides change what it computes. Raises UserError where every
    row is a set of images.
    """
    chosen = [row for row in _chosen_rows(table, rows) if not row.images]
    if not chosen:
        raise UserError(
            f"the rows of the table '{table.name}' are sets of images: nothing is sampled; show them with "
            f"'erk-bench table table={table.name}'"
        )
    specs = [run_spec([*table.base, *row.set, *overrides], fetch=fetch) for row in chosen]
    check_rows(table, specs)
    return _overridden(chosen, overrides), specs


def table_specs(
    table: TableFile,
    overrides: Sequence[str],
    rows: str,
    of_set: Callable[[RowSpec, RunSpec], SetSpec],
    *,
    fetch: bool = True,
) -> tuple[list[RowSpec], list[Spec]]:
    """The chosen rows of a table and their specs under the user's overrides, as `table_runs`.

    of_set: the spec of a row of images, which is measured as the given run is.
    """
    chosen, specs = _chosen_rows(table, rows), list[Spec]()
    for row in chosen:
        spec = run_spec([*table.base, *row.set, *overrides], fetch=fetch and not row.images)
        specs.append(of_set(row, spec) if row.images else spec)
    check_rows(table, specs)
    return _overridden(chosen, overrides), specs


def _chosen_rows(table: TableFile, rows: str) -> list[RowSpec]:
    return [table.rows[number] for number in _row_numbers(rows, len(table.rows))]


def _overridden(rows: list[RowSpec], overrides: Sequence[str]) -> list[RowSpec]:
    """The rows without their published values, where the overrides change what they compute."""
    keys = [override.partition("=")[0] for override in overrides]
    if any(key in METHOD_SETTINGS or key.split(".")[0] in METHOD_SETTINGS for key in keys):
        return [row.overridden() for row in rows]
    return rows
