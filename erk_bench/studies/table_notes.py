"""What is said below a table: how it was measured, and findings over several rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from erk_bench.evaluation.metrics import METRICS
from erk_bench.reporting.row_names import RowName, guidance_name
from erk_bench.reporting.table_views import TableRow, rounded
from erk_bench.runs.records import Record
from erk_bench.spec import RunSpec
from erk_bench.studies import published
from erk_bench.studies.baselines import Line
from erk_bench.studies.table_file import RowSpec, TableFile
from erk_bench.studies.verdicts import RESOLVED, SEEDS_ONLY, mean_difference, verdict


def facts(table: TableFile, records: Sequence[Sequence[Record]]) -> str:
    """Images, seeds, errors, baselines and device."""
    sets = records[0]
    first = sets[0]
    against = "the row under baseline" if table.names_baselines else "the row without ERK-Guid"
    device = ", ".join(first.environment.get("sampled_on") or [first.environment["device"]])
    seeds = ", ".join(record.seeds for record in sets)
    text = (
        f"{first.num_images} images a row, seeds {seeds}; ± is one jackknife standard error; "
        f"Δ is against {against} on the same seeds, resolved beyond {RESOLVED:g} standard "
        f"errors; s / 1000 is one worker's seconds for 1000 images on {device}. {SEEDS_ONLY}"
    )
    if len(sets) > 1:
        text += f" Values are means of {len(sets)} seed sets, spread is their standard deviation."
    known = table.published
    if known:
        text += (
            f" Published values: {known.source}; in brackets measured minus published, OFF beyond "
            f"{known.tolerance:.0%} of the published value plus {published.STANDARD_ERRORS:g} standard "
            "errors."
        )
    return text


def sources(lines: Sequence[Line], called: Mapping[str, RowName]) -> list[str]:
    """Which published values have a source of their own, or another sampler. called: names by digest."""
    notes = []
    for line in lines:
        row = called[line.spec.digest].method
        where = f"published values of {row}" + (f", {guidance_name(line.run)}" if line.run else "")
        if line.row.source:
            notes.append(f"{where}: {line.row.source}")
        if line.row.published and line.row.sampler:
            notes.append(f"{where} are of another sampler, so they get no verdict: {line.row.sampler}")
    return notes


def unpaired(pairs: Sequence[tuple[Line, Line | None]], called: Mapping[str, RowName]) -> list[str]:
    """Which rows are compared with a row of other images. called: their names by digest."""
    named = [
        called[line.spec.digest].method
        for line, base in pairs
        if base is not None and line.records[0].pairing != base.records[0].pairing
    ]
    if not named:
        return []
    return [f"other images than the row compared with, so the difference is unpaired: {', '.join(named)}"]


def minima(
    table: TableFile, rows: Sequence[RowSpec], shown: Sequence[TableRow], num_images: int
) -> list[str]:
    """The best row of a group beside the published best of the same group; only where all of it is there."""
    notes = []
    for entry in table.minima:
        group = [line for row, line in zip(rows, shown, strict=True) if row.group == entry.group]
        whole = sum(row.group == entry.group for row in table.rows)
        if len(group) < whole or table.published is None or num_images != table.published.images:
            continue
        best = min(group, key=lambda row: row.metrics[entry.metric][1][0])
        title, estimate = best.metrics[entry.metric]
        notes.append(
            f"lowest {title} of the {whole} rows of group {entry.group}: {rounded(estimate)} "
            f"({best.method}), published {entry.value:g} ({entry.source}); the lowest of several rows "
            "flatters itself"
        )
    return notes


def bests(table: TableFile, rows: Sequence[RowSpec], shown: Sequence[TableRow]) -> list[str]:
    """The best row of each whole group by the headline, where the table asks for it."""
    notes = []
    told = "lowest" if METRICS[table.headline].lower else "highest"
    groups = dict.fromkeys(row.group for row in rows if row.group is not None)
    for name in groups if table.best else ():
        group = [line for row, line in zip(rows, shown, strict=True) if row.group == name]
        if len(group) < max(2, sum(row.group == name for row in table.rows)):
            continue
        best = (min if told == "lowest" else max)(group, key=lambda row: row.metrics[table.headline][1][0])
        title, estimate = best.metrics[table.headline]
        row = best.guidance if len({line.method for line in group}) == 1 else best.method
        notes.append(f"{told} {title} of the {len(group)} rows of {name}: {rounded(estimate)} ({row})")
    if notes:
        notes.append(f"the {told} of several rows flatters itself")
    return notes


def at_equal_cost(lines: Sequence[tuple[RunSpec, Sequence[Record], TableRow]], headline: str) -> list[str]:
    """For each guidance and number of evaluations, the best corrected row against the best plain one.

    lines: runs with their records and how they are shown.
    """
    notes = []
    for guidance, cost in dict.fromkeys((row.guidance, row.cost) for _, _, row in lines):
        here = [line for line in lines if (line[2].guidance, line[2].cost) == (guidance, cost)]
        best = []
        for corrected in (True, False):
            of_kind = [line for line in here if bool(line[0].correction.w_stiff) == corrected]
            ordered = sorted(of_kind, key=lambda line: line[2].metrics[headline][1][0])
            best += ordered[:1] if METRICS[headline].lower else ordered[-1:]
        if len(best) < 2:
            continue
        (_, mine, row), (_, other, plain) = best
        difference = mean_difference(mine, other, headline)
        notes.append(
            f"{cost:g} evaluations, {guidance}: best corrected {row.method} {_value(row, headline)}, "
            f"best plain {plain.method} {_value(plain, headline)}; difference {rounded(difference, '+')}, "
            f"{verdict(difference, METRICS[headline].lower)}"
        )
    return notes


def _value(row: TableRow, metric: str) -> str:
    return rounded(row.metrics[metric][1])
