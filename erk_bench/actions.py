"""From a command's words to specs, and to the function that does it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from erk_bench import (
    analyze_command,
    commands,
    grid_command,
    preparing,
    qualitative,
    search_command,
    table_command,
)
from erk_bench.base.config_files import config_folder
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.composing import (
    grid_cells,
    grid_file,
    groups,
    run_spec,
    table_file,
    table_specs,
    tracker_spec,
)
from erk_bench.reporting.trackers.tracker import Launch, Tracker, TrackerSpec, open_tracker
from erk_bench.runs import launch
from erk_bench.settings import flag, whole_number
from erk_bench.spec import RunSpec
from erk_bench.studies import manifest as manifests
from erk_bench.studies.grid_file import trees

SWEEP = "ERK_BENCH_SWEEP"  # in the environment of a task: the name of the table or grid it belongs to


def one_run(action: Callable[[RunSpec], int]) -> Callable[[dict[str, str], list[str]], int]:
    """A command on one run that makes no record by itself, and so has nothing to track."""

    def act(options: dict[str, str], overrides: list[str]) -> int:
        if tracker_spec(overrides).name != "none":
            raise UserError("generate, evaluate and export do not track; leave out tracker=..., or use 'run'")
        return action(run_spec(overrides))

    return act


@contextmanager
def _tracked(kind: str, name: str, specs: Sequence[RunSpec], overrides: Sequence[str]) -> Iterator[Tracker]:
    """The tracker that the settings ask for; a disabled one where this process shows nothing.

    A task of a sweep is grouped with the others, under the name of the sweep.
    """
    spec = tracker_spec(overrides) if launch.reports() else TrackerSpec()
    with open_tracker(spec, Launch(kind, os.environ.get(SWEEP, name), specs)) as tracker:
        yield tracker


def run(options: dict[str, str], overrides: list[str]) -> int:
    spec = run_spec(overrides)
    with _tracked("run", spec.run_id, [spec], overrides) as tracker:
        return commands.run(spec, tracker)


def table(options: dict[str, str], overrides: list[str]) -> int:
    table = table_file(options["table"])
    rows, specs = table_specs(table, overrides, options["rows"], fetch=not options["from"])
    as_published = all(override.startswith("tracker") for override in overrides)
    with _tracked("table", table.name, specs, overrides) as tracker:
        return table_command.table(table, rows, specs, options, tracker, as_published=as_published)


def grid(options: dict[str, str], overrides: list[str]) -> int:
    grid, cells = grid_cells(grid_file(options["grid"]), overrides, fetch=not options["from"])
    # Settings of axes are no settings of the tracker, and those with several values do not compose.
    tracking = [override for override in overrides if override.startswith("tracker")]
    specs = [spec for group in trees(cells) for spec in group]
    with _tracked("grid", grid.name, specs, tracking) as tracker:
        return grid_command.grid(grid, cells, options, tracker)


def search(options: dict[str, str], overrides: list[str]) -> int:
    spec = run_spec(overrides)
    with _tracked("search", spec.run_id, [spec], overrides) as tracker:
        return search_command.search_weights(spec, options, tracker)


def analyze(options: dict[str, str], overrides: list[str]) -> int:
    if tracker_spec(overrides).name != "none":
        raise UserError("analyze does not track; leave out tracker=...")
    return analyze_command.analyze(run_spec(overrides), options)


def draw_qualitative(options: dict[str, str], words: list[str]) -> int:
    if words:
        raise unknown_name("setting of qualitative", words[0].partition("=")[0], options)
    return qualitative.qualitative(options)


def plan(options: dict[str, str], overrides: list[str]) -> int:
    sets = whole_number("sets", options["sets"])
    for name in ("grid", "table"):
        if options["table" if name == "grid" else "grid"] and options[name]:
            raise UserError("both table and grid are given; plan one of them")
    if options["grid"]:
        grid, cells = grid_cells(grid_file(options["grid"]), overrides, fetch=False)
        specs = [spec for group in trees(cells) for spec in group]
        lines = manifests.grid_lines(options["grid"], grid, overrides)
    elif options["table"]:
        table = table_file(options["table"])
        rows, specs = table_specs(table, overrides, options["rows"], fetch=False)
        seeds = [table_command.shifted(specs[0], index).seeds for index in range(sets)]
        lines = manifests.table_lines(table, rows, overrides, seeds)
    else:
        specs = [run_spec(overrides, fetch=False)]
        lines = [["run", *overrides]]
    if options["manifest"]:
        if sets > 1 and not options["table"]:
            raise UserError(
                f"sets is {sets}, but only a table's manifest has seed sets; give seeds=... instead"
            )
        path = Path(options["manifest"]).expanduser()
        given = [f"{key}={options[key]}" for key in ("grid", "table", "rows") if options[key]]
        given += [f"sets={sets}"] if sets > 1 else []
        manifests.write_manifest(path, shlex.join([*(given or ["run"]), *overrides]), lines)
        print(f"{path}: {len(lines)} tasks; 'erk-bench task {path} 0' runs the first")
        return 0
    specs = [table_command.shifted(spec, index) for index in range(sets) for spec in specs]
    return preparing.plan(
        specs, options["throughput"], shared=bool(options["grid"]), workers=options["simulate"]
    )


def fetch(options: dict[str, str], words: list[str]) -> int:
    """TRACK as a bare word: its own run and those of its tables; settings alone: the run they compose to."""
    tracks = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    known = groups()["track"]
    for track in tracks:
        if track in groups()["model"]:
            raise UserError(f"'{track}' is a model; write model={track}")
        if track not in known:
            raise unknown_name("track", track, known)
    specs = []
    if options["table"]:
        specs += table_specs(table_file(options["table"]), overrides, fetch=False)[1]
    elif options["grid"]:
        cells = grid_cells(grid_file(options["grid"]), overrides, fetch=False)[1]
        specs += [cell.spec for cell in cells]
    elif overrides or not tracks:
        specs.append(run_spec(overrides, fetch=False))
    for track in tracks:
        specs.append(run_spec([f"track={track}", *overrides], fetch=False))
        for file in sorted((config_folder() / "table").glob("*.yaml")):
            table = table_file(file.stem)
            if f"track={track}" in table.base and table.fetch:
                specs += table_specs(table, overrides, fetch=False)[1]
    dry_run = flag("dry_run", options["dry_run"])
    return preparing.fetch(specs, every_detector=bool(tracks), dry_run=dry_run)
