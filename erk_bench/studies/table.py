"""From records to a table: which row is compared with which, and how sure the difference is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median, stdev

from erk_bench.base.errors import UserError
from erk_bench.evaluation.families import jackknife_error
from erk_bench.evaluation.metrics import METRICS
from erk_bench.reporting.row_names import guidance_name, row_names
from erk_bench.reporting.table_views import Estimate, TableRow, TableView, rounded
from erk_bench.runs.records import Record
from erk_bench.spec import RunSpec
from erk_bench.studies import published
from erk_bench.studies.table_file import RowSpec, TableFile

RESOLVED = 2.0  # standard errors from zero at which a difference counts as resolved
# What a verdict does not cover; said wherever there are verdicts.
SEEDS_ONLY = (
    "Standard errors are over sampling seeds; between training seeds FID varies about three times as much "
    "(arXiv 2606.20536)."
)


def pairs(specs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """Rows with the same baseline together, in order; their blocks take turns, so their times compare."""
    groups: dict[str, list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault(spec.baseline.digest, []).append(spec)
    return list(groups.values())


def paired_difference(record: Record, other: Record, metric: str) -> Estimate:
    """record minus other, with the jackknife standard error of the difference; same seeds only."""
    if record.seeds != other.seeds:
        raise UserError(f"{record.run_id} has seeds {record.seeds}, {other.run_id} {other.seeds}: no pair")
    a, b = record.metrics[metric], other.metrics[metric]
    if len(a.replicates) != len(b.replicates):
        raise UserError(
            f"{record.run_id} has {len(a.replicates)} jackknife groups, {other.run_id} {len(b.replicates)}; "
            "run both with the same metrics.num_groups"
        )
    errors = [x - y for x, y in zip(a.replicates, b.replicates, strict=True)]
    return a.value - b.value, jackknife_error(errors)


def verdict(difference: Estimate, lower: bool) -> str:
    """better, worse or not resolved, for a metric of which lower (or higher) values are better."""
    value, error = difference
    if abs(value) <= RESOLVED * error:
        return "not resolved"
    return "better" if (value < 0) == lower else "worse"


def overhead(record: Record, other: Record) -> Estimate | None:
    """Relative extra time with the standard error of a median, from the blocks that both timed.

    Blocks of a pair take turns, so each ratio compares neighbours in time. None below two such blocks.
    """
    common = record.seconds_per_block.keys() & other.seconds_per_block.keys()
    ratios = [record.seconds_per_block[b] / other.seconds_per_block[b] for b in sorted(common)]
    if len(ratios) < 2:
        return None
    return median(ratios) - 1, math.sqrt(math.pi / 2 / len(ratios)) * stdev(ratios)


def reproduction(record: Record, reference: Record | None, metric: str, tolerance: float) -> tuple[str, bool]:
    """How far a row is from its reference, in standard errors, and whether that is too far.

    On the same seeds the error is the reference's own and `tolerance` holds; on other seeds both errors
    count, and three times `tolerance`.
    """
    if reference is None:
        return "", False
    if reference.protocol != record.protocol:
        return f"reference has protocol {reference.protocol}", True
    if reference.num_images != record.num_images:
        return f"reference has {reference.num_images} images", False  # the distance depends on it
    new, old = record.metrics[metric], reference.metrics[metric]
    same = record.seeds == reference.seeds
    error = old.standard_error if same else math.hypot(old.standard_error, new.standard_error)
    limit = tolerance if same else 3 * tolerance
    gap = abs(new.value - old.value)
    distance = gap / error if error else (0.0 if gap == 0 else math.inf)
    seeds = "" if same else ", other seeds"
    if distance > limit:
        return f"OFF by {distance:.2f} SE{seeds}", True
    return f"within {distance:.2f} SE{seeds}", False


def build_view(
    table: TableFile,
    rows: Sequence[RowSpec],
    records: Sequence[Sequence[Record]],
    references: Mapping[str, Record],
) -> TableView:
    """The table of `rows` (of the table file), each with the records of its seed sets, in their order.

    Each row is shown beside its baseline, its published values and its reference.
    """
    headline = table.headline
    check_comparable(headline, [record for sets in records for record in sets])
    specs = [sets[0].run_spec for sets in records]
    several = len({spec.solver.name for spec in specs}) > 1
    by_digest = {spec.digest: sets for spec, sets in zip(specs, records, strict=True)}
    names = [headline, *(name for name in records[0][0].metrics if name != headline)]
    shown, warnings = [], []
    called = row_names(specs)
    for row, spec, sets, (method, solver) in zip(rows, specs, records, called, strict=True):
        base = by_digest.get(spec.baseline.digest) if spec.correction.w_stiff else None
        difference = _mean_difference(sets, base, headline) if base else None
        first = sets[0]
        reproduced, off = reproduction(first, references.get(first.run_id), headline, table.tolerance)
        measured = {name: published.over_sets(sets, name) for name in names}
        beside = {}
        if row.published and table.published:
            beside = {
                name: published.compare(
                    row.published[name], table.published, measured[name], first.num_images
                )
                for name in names
                if name in row.published
            }
            warnings.append(published.unfair(table.published, len(sets), first.num_images))
        shown.append(
            TableRow(
                steps=spec.schedule.num_steps,
                guidance=guidance_name(spec),
                method=method,
                solver=solver,
                nfe=first.nfe,
                nfe_guide=first.nfe_guide,
                metrics={name: (METRICS[name].title, measured[name].mean) for name in names},
                difference=difference,
                verdict=verdict(difference, METRICS[headline].lower) if difference else "",
                seconds_per_1000=first.seconds_per_1000,
                overhead=overhead(first, base[0]) if base else None,
                reproduction=reproduced,
                off=off or any(value.within is False for value in beside.values()),
                published=beside,
                sets={name: measured[name].summary for name in names} if len(sets) > 1 else {},
            )
        )
    notes = [note for note in dict.fromkeys(warnings) if note]
    notes += _minima(table, rows, shown, records[0][0].num_images)
    notes += _at_equal_cost(specs, records, shown, headline) if several else []
    return TableView(
        table.title,
        f"{table.caption} {_facts(table, records)}",
        tuple(shown),
        METRICS[headline].lower,
        tuple(notes),
        table.name,
        frozenset(name for name in names if not METRICS[name].lower),
    )


def check_comparable(headline: str, records: Sequence[Record]) -> None:
    """Refuse to show records side by side that were measured differently."""
    first = records[0]
    for record in records:
        if headline not in record.metrics:
            raise UserError(
                f"{record.run_id} has no metric '{headline}', the table's headline; it has: "
                f"{', '.join(record.metrics)}. Run it with metrics.names that include it"
            )
        for what, mine, other in (
            ("metrics", set(record.metrics), set(first.metrics)),
            ("detectors", set(record.detectors), set(first.detectors)),
            ("reference", record.reference, first.reference),
            ("protocol", record.protocol, first.protocol),
        ):
            if mine != other:
                raise UserError(
                    f"{record.run_id} has {what} {_listed(mine)}, {first.run_id} {_listed(other)}; run all "
                    "rows of a table with the same settings of metrics, and the same version"
                )


def _listed(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(sorted(value)) if isinstance(value, (set, tuple)) else str(value)


def _mean_difference(sets: Sequence[Record], base: Sequence[Record], metric: str) -> Estimate:
    """Mean over the seed sets of the paired differences."""
    pairs = [paired_difference(record, other, metric) for record, other in zip(sets, base, strict=True)]
    error = math.sqrt(math.fsum(error**2 for _, error in pairs)) / len(pairs)
    return fmean(value for value, _ in pairs), error


def _facts(table: TableFile, records: Sequence[Sequence[Record]]) -> str:
    sets = records[0]
    first = sets[0]
    device = ", ".join(first.environment.get("sampled_on") or [first.environment["device"]])
    seeds = ", ".join(record.seeds for record in sets)
    text = (
        f"{first.num_images} images a row, seeds {seeds}; ± is one jackknife standard error; "
        f"Δ is against the row without ERK-Guid on the same seeds, resolved beyond {RESOLVED:g} standard "
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


def _minima(
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


def _at_equal_cost(
    specs: Sequence[RunSpec], records: Sequence[Sequence[Record]], shown: Sequence[TableRow], headline: str
) -> list[str]:
    """For each guidance and number of evaluations, the best corrected row against the best plain one."""
    notes = []
    lines = list(zip(specs, records, shown, strict=True))
    for guidance, cost in dict.fromkeys((row.guidance, row.cost) for row in shown):
        here = [line for line in lines if (line[2].guidance, line[2].cost) == (guidance, cost)]
        best = []
        for corrected in (True, False):
            of_kind = [line for line in here if bool(line[0].correction.w_stiff) == corrected]
            ordered = sorted(of_kind, key=lambda line: line[2].metrics[headline][1][0])
            best += ordered[:1] if METRICS[headline].lower else ordered[-1:]
        if len(best) < 2:
            continue
        (_, mine, row), (_, other, plain) = best
        difference = _mean_difference(mine, other, headline)
        notes.append(
            f"{cost:g} evaluations, {guidance}: best corrected {row.method} {_value(row, headline)}, "
            f"best plain {plain.method} {_value(plain, headline)}; difference {rounded(difference, '+')}, "
            f"{verdict(difference, METRICS[headline].lower)}"
        )
    return notes


def _value(row: TableRow, metric: str) -> str:
    return rounded(row.metrics[metric][1])


def references_for(specs: Sequence[RunSpec], found: Mapping[tuple[str, str], Record]) -> dict[str, Record]:
    """The reference record of each run by run_id: of the same seeds if there is one, else of others."""
    by_run = {run_id: record for (run_id, _), record in found.items()}
    chosen = {spec.run_id: found.get((spec.run_id, spec.seeds), by_run.get(spec.run_id)) for spec in specs}
    return {run_id: record for run_id, record in chosen.items() if record is not None}
