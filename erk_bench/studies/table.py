"""From records to a table: each row beside its baseline, its published values and its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from erk_bench.evaluation.metrics import METRICS
from erk_bench.reporting.row_names import GIVEN_IMAGES, RowName, guidance_name, row_names
from erk_bench.reporting.table_views import PublishedValue, TableRow, TableView
from erk_bench.runs.records import Record, RecordKey
from erk_bench.spec import RunSpec, Spec
from erk_bench.studies import published
from erk_bench.studies.baselines import Line, baselines
from erk_bench.studies.convergence import floors, of_solution, order_of
from erk_bench.studies.network_spread import over_networks
from erk_bench.studies.table_file import Published, RowSpec, TableFile
from erk_bench.studies.table_notes import at_equal_cost, bests, facts, minima, sources, unpaired
from erk_bench.studies.verdicts import check_comparable, mean_difference, overhead, reproduction, verdict

T = TypeVar("T")


def pairs(specs: Sequence[Spec]) -> list[list[Spec]]:
    """Rows with the same baseline together, in order; their blocks take turns, so their times compare."""
    groups: dict[str, list[Spec]] = {}
    for spec in specs:
        plain = spec.baseline if isinstance(spec, RunSpec) else spec
        groups.setdefault(plain.digest, []).append(spec)
    return list(groups.values())


def build_view(
    table: TableFile,
    rows: Sequence[RowSpec],
    records: Sequence[Sequence[Record]],
    references: Mapping[str, Record],
) -> TableView:
    """The table of `rows` (of the table file), each with the records of its seed sets, in their order.

    Each row is shown beside its baseline, its published values and its reference. Rows that are the same run
    are shown once.
    """
    headline = table.headline
    check_comparable(headline, [record for sets in records for record in sets])
    lines = [Line(row, sets[0].source, sets) for row, sets in zip(rows, records, strict=True)]
    against = {line.spec.digest: base for line, base in _once(lines, baselines(table, lines))}
    lines = [line for line, _ in _once(lines, lines)]
    runs = [line for line in lines if line.run is not None]
    called = {line.spec.digest: name for line, name in zip(runs, _names(runs), strict=True)}
    called |= {line.spec.digest: _set_name(line) for line in lines if line.run is None}
    shown, warnings = [], []
    for line in lines:
        base = against[line.spec.digest]
        beside = {}
        if line.row.published and table.published:
            num_images = line.records[0].num_images
            warnings.append(published.unfair(table.published, len(line.records), num_images))
            beside = _beside(line, table.published)
        row = _shown(table, line, called[line.spec.digest], base, beside, references)
        if base and table.names_baselines:
            row = replace(row, baseline=_baseline_name(called[base.spec.digest], base.run, row.guidance))
        shown.append(row)
    notes = [note for note in dict.fromkeys(warnings) if note]
    notes += sources(lines, called)
    notes += of_solution([record for several in records for record in several], headline)
    notes += unpaired([(line, against[line.spec.digest]) for line in lines], called)
    notes += minima(table, [line.row for line in lines], shown, records[0][0].num_images)
    notes += bests(table, [line.row for line in lines], shown)
    if table.over_networks:
        notes += over_networks(lines, against, headline)
    elif len({line.run.solver.name for line in runs if line.run}) > 1:
        ran = [(line.run, line.records, row) for line, row in zip(lines, shown, strict=True) if line.run]
        notes += at_equal_cost(ran, headline)
    return TableView(
        table.title,
        f"{table.caption} {facts(table, records)}",
        tuple(shown),
        METRICS[headline].lower,
        tuple(notes),
        table.name,
        frozenset(name for name in records[0][0].metrics if not METRICS[name].lower),
    )


def _once(lines: Sequence[Line], values: Sequence[T]) -> list[tuple[Line, T]]:
    """The first line of every run, each with its value."""
    found: dict[str, tuple[Line, T]] = {}
    for line, value in zip(lines, values, strict=True):
        found.setdefault(line.spec.digest, (line, value))
    return list(found.values())


def _names(lines: Sequence[Line]) -> list[RowName]:
    """What rows of runs are called: their labels, else solver and correction."""
    runs = [line.run for line in lines if line.run]
    return [
        name
        if not line.row.label
        else RowName(line.row.label, name.solver if run.correction.w_stiff else line.row.label)
        for line, run, name in zip(lines, runs, row_names(runs), strict=True)
    ]


def _baseline_name(called: RowName, run: RunSpec | None, guidance: str) -> str:
    """What the row compared with is called, beside one of that guidance."""
    if run is None:
        return called.method
    other = "" if guidance_name(run) == guidance else f", {guidance_name(run)}"
    return f"{called.method}, {run.schedule.num_steps} steps{other}"


def _set_name(line: Line) -> RowName:
    name = line.row.label or line.records[0].name
    return RowName(name, name)


def _shown(
    table: TableFile,
    line: Line,
    called: RowName,
    base: Line | None,
    beside: Mapping[str, PublishedValue],
    references: Mapping[str, Record],
) -> TableRow:
    """base: the row that it is compared with. beside: its published values."""
    headline, run, first = table.headline, line.run, line.records[0]
    names = [headline, *(name for name in first.metrics if name != headline)]
    measured = {name: published.over_sets(line.records, name) for name in names}
    reproduced, off = reproduction(first, references.get(first.run_id), headline, table.tolerance)
    difference = mean_difference(line.records, base.records, headline) if base else None
    # Only the blocks of a run and of the same without correction took turns, so only their times compare.
    timed = base if base and run and base.spec.digest == run.baseline.digest else None
    return TableRow(
        steps=run.schedule.num_steps if run else None,
        guidance=guidance_name(run) if run else GIVEN_IMAGES,
        method=called.method,
        solver=called.solver,
        labelled=bool(line.row.label),
        nfe=first.nfe,
        nfe_guide=first.nfe_guide,
        metrics={name: (METRICS[name].title, measured[name].mean) for name in names},
        difference=difference,
        verdict=verdict(difference, METRICS[headline].lower) if difference else "",
        seconds_per_1000=first.seconds_per_1000,
        overhead=overhead(first, timed.records[0]) if timed else None,
        reproduction=reproduced,
        off=off or any(value.within is False for value in beside.values()),
        published=beside,
        sets={name: measured[name].summary for name in names} if len(line.records) > 1 else {},
        order=order_of(run) if run else None,
        floors=floors(first, headline),
    )


def _beside(line: Line, known: Published) -> dict[str, PublishedValue]:
    """The published values of a row, those of metrics that it has."""
    first, same = line.records[0], not line.row.sampler
    return {
        name: published.compare(value, known, published.over_sets(line.records, name), first.num_images, same)
        for name, value in line.row.published.items()
        if name in first.metrics
    }


def references_for(specs: Sequence[Spec], found: Mapping[RecordKey, Record]) -> dict[str, Record]:
    """The reference record of each run by run_id: of the same seeds if there is one, else of others."""
    of_others = {(key.run_id, key.protocol): record for key, record in found.items()}
    chosen = {
        spec.run_id: found.get(RecordKey.of(spec), of_others.get((spec.run_id, spec.metrics.protocol)))
        for spec in specs
    }
    return {run_id: record for run_id, record in chosen.items() if record is not None}
