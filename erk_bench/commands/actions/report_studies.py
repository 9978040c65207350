"""The tables and grids of configs/ whose records are there, as a site shows them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from erk_bench.base.config_files import config_files
from erk_bench.base.errors import UserError
from erk_bench.commands.compose import run_spec
from erk_bench.commands.compose_studies import grid_cells, grid_file, table_file, table_specs
from erk_bench.reporting.site.content import SiteGrid, SiteRecord, SiteTable
from erk_bench.runs.records import RecordKey
from erk_bench.spec import RunSpec, SetSpec, Spec
from erk_bench.studies.grid import build_grid_view, summary
from erk_bench.studies.grid_file import trees
from erk_bench.studies.records import read_folder
from erk_bench.studies.score_sets import set_name
from erk_bench.studies.table import build_view, references_for
from erk_bench.studies.table_file import RowSpec


class Collection(NamedTuple):
    """The records of one folder."""

    folder: str
    members: dict[RecordKey, SiteRecord]

    def of(self, spec: Spec) -> SiteRecord | None:
        """The record of a run or set, measured against its reference; None while weights have no hash."""
        if isinstance(spec, RunSpec) and spec.unknown_weights:
            return None
        return self.members.get(RecordKey.of(spec))


class Studies(NamedTuple):
    """commands: (page of a record, what computes it as part of a table or grid). notes: what failed."""

    tables: list[SiteTable]
    grids: list[SiteGrid]
    commands: list[tuple[str, str]]
    notes: list[str]


def studies_of(collections: Sequence[Collection]) -> Studies:
    """Every table and grid of configs/ with a record for each row or cell in one folder.

    A table is there with fewer rows, too, in its own folder of reference records.
    """
    found = Studies([], [], [], [])
    for kind, add in (("table", _add_table), ("grid", _add_grid)):
        for name in config_files(kind):
            try:
                add(found, name, collections)
            except UserError as error:
                found.notes.append(f"the {kind} '{name}' is not shown: {error}")
    return found


def _with_seeds(settings: Sequence[str], collections: Sequence[Collection]) -> list[Collection]:
    """The collections that may have records of these settings: composing them to know it takes longer."""
    given = [setting.removeprefix("seeds=") for setting in settings if setting.startswith("seeds=")]
    return [each for each in collections if not given or any(key.seeds == given[-1] for key in each.members)]


def _add_table(found: Studies, name: str, collections: Sequence[Collection]) -> None:
    table = table_file(name)
    collections = _with_seeds(table.base, collections)
    if not collections:
        return
    first = next((number for number, row in enumerate(table.rows) if not row.images), 0)
    _, specs = table_specs(table, [], str(first), _no_set, fetch=False)
    for collection in collections:
        own = (
            table.reference is not None
            and Path(table.reference).resolve() == Path(collection.folder).resolve()
        )
        if not own and collection.of(specs[0]) is None:
            continue
        rows, specs = table_specs(table, [], "", functools.partial(_kept_set, collection), fetch=False)
        there = [
            (row, spec, kept) for row, spec in zip(rows, specs, strict=True) if (kept := collection.of(spec))
        ]
        if not there or (len(there) < len(rows) and not own):
            continue
        reference = {} if own or table.reference is None else read_folder(Path(table.reference))
        references = references_for([spec for _, spec, _ in there], reference)
        view = build_view(
            table, [row for row, _, _ in there], [[kept.record] for _, _, kept in there], references
        )
        ids = {spec.digest: kept.id for _, spec, kept in there}  # the view has each run once
        page = _free(name, [each.page for each in found.tables])
        command = f"erk-bench table table={name}"
        found.tables.append(
            SiteTable(page, view, tuple(ids.values()), collection.folder, command, table.figure)
        )
        for row, _, kept in there:
            found.commands.append((kept.id, f"{command} rows={table.rows.index(row)}"))


def _free(name: str, taken: Sequence[str]) -> str:
    """The name, with a number where another folder's page has it."""
    return next(each for each in chain([name], (f"{name}-{n}" for n in count(2))) if each not in taken)


def _no_set(row: RowSpec, run: RunSpec) -> SetSpec:
    raise UserError("every row is a set of images, and no folder has its records")


def _kept_set(collection: Collection, row: RowSpec, run: RunSpec) -> SetSpec:
    """The set of a row by its name in kept records: its files need not be here."""
    name = row.label or set_name(row.images)
    for record in collection.members.values():
        if isinstance(record.source, SetSpec) and record.source.name == name:
            return replace(record.source, metrics=replace(record.source.metrics, names=run.metrics.names))
    raise UserError(f"'{collection.folder}' has no record of a set called '{name}'")


def _add_grid(found: Studies, name: str, collections: Sequence[Collection]) -> None:
    grid = grid_file(name)
    for collection in _with_seeds(grid.base, collections):
        # One cell tells whether it is worth composing the others, which takes seconds.
        place = grid.places()[0]
        probe = run_spec([*grid.base, *(f"{key}={value}" for key, value in place.items())], fetch=False)
        if collection.of(probe) is None:
            continue
        grid, cells = grid_cells(grid, [], fetch=False)
        specs = {spec.run_id: spec for group in trees(cells) for spec in group}
        kept = {run_id: record for run_id, spec in specs.items() if (record := collection.of(spec))}
        if len(kept) < len(specs):
            continue
        view = build_grid_view(grid, cells, {run_id: each.record for run_id, each in kept.items()})
        page = _free(name, [each.page for each in found.grids])
        command = f"erk-bench grid grid={name}"
        ids = {run_id: record.id for run_id, record in kept.items()}
        found.grids.append(SiteGrid(page, view, tuple(summary(grid, view)), ids, collection.folder, command))
        found.commands.extend((page_id, command) for page_id in ids.values())
