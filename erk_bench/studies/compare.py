"""Records compared with each other: every metric that they share, with differences, errors and verdicts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.evaluation.composites import Composite
from erk_bench.evaluation.metrics import METRICS, Metric, key_names, singles, solver_errors, split_name
from erk_bench.reporting.comparison_views import EQUAL, OTHER_SIZE, ComparisonRow, ComparisonView
from erk_bench.runs.records import MetricRecord, Record
from erk_bench.studies.comparison_names import NamedRecord, names_of
from erk_bench.studies.verdicts import (
    LEVEL,
    RESOLVED,
    SEEDS_ONLY,
    difference_of,
    holm,
    p_value,
    pairing_lack,
    verdict,
)

# Families whose expected value does not depend on the number of images (that of real ones is the same).
OF_ANY_SIZE = (
    "kid", "fd_infinity", "fd_infinity_cf", "precision", "precision_adm", "precision_prdc", "density",
    "solver_error", "solver_error_median", "solver_error_q90",
)  # fmt: skip
SAME_SIZE = 0.005  # relative difference of two numbers of images that changes no value by a standard error


AnyMetric = Metric | Composite


def compare(
    entries: Sequence[NamedRecord], *, baseline: int = 0, all_pairs: bool = False, metrics: Sequence[str] = ()
) -> ComparisonView:
    """Every record beside that of number `baseline`, or beside each one before it.

    metrics: only these, else all that two records share. Raises UserError for fewer than two records, for
    records that were measured against other references or by other weights or protocols, and where no metric
    is shared.
    """
    if len(entries) < 2:
        raise UserError(
            f"there is one record to compare ('{entries[0].file}'); name another beside it"
            if entries
            else "there are no records to compare; name at least two"
        )
    numbers = range(len(entries))
    pairs = [(number, baseline) for number in numbers if number != baseline]
    if all_pairs:
        pairs = [(later, earlier) for earlier, later in itertools.combinations(numbers, 2)]
    known, left_out = _metrics([entry.record for entry in entries], metrics)
    for mine, base in pairs:
        _check_alike(entries[mine], entries[base], known)
    names = names_of(entries)
    rows = [
        _row(metric, name, entries[mine], entries[base], names.each[mine], names.each[base])
        for name, metric in known.items()
        for mine, base in pairs
        if name in entries[mine].record.metrics and name in entries[base].record.metrics
    ]
    rows = _with_verdicts(rows)
    against = names.each[baseline]
    title = (
        f"{names.each[1 - baseline]} against {against}"
        if len(entries) == 2
        else f"{len(pairs)} records against {against}"
    )
    return ComparisonView(
        f"{len(entries)} records, each pair" if all_pairs and len(entries) > 2 else title,
        _caption(entries, rows, names.common, len(pairs)),
        tuple(rows),
        (*left_out, *_notes(entries, pairs, rows)),
    )


def _metrics(records: Sequence[Record], wanted: Sequence[str]) -> tuple[dict[str, AnyMetric], list[str]]:
    """The metrics of the records, or those wanted, by their names there; and which are unknown here."""
    found = dict.fromkeys(name for record in records for name in record.metrics)
    names = [METRICS[name].name if name in METRICS else name for name in wanted]
    for name in names:
        if name not in found:
            raise unknown_name("metric of the records", name, found)
    known, unknown = dict[str, AnyMetric](), []
    for name in names or found:
        try:
            known[name] = METRICS[name]
        except UserError as error:  # of a user's own, whose file is not here
            if wanted:
                raise
            unknown.append(f"{name} is left out, since nobody knows which values are better ({error})")
    return known, unknown


def _check_alike(entry: NamedRecord, other: NamedRecord, known: dict[str, AnyMetric]) -> None:
    """Refuse two records whose values mean different things, saying why and what to do."""
    mine, theirs = entry.record, other.record
    shared = [name for name in known if name in mine.metrics and name in theirs.metrics]
    files = f"'{entry.file}' and '{other.file}'"
    if not shared:
        raise UserError(
            f"{files} share no metric: {', '.join(mine.metrics)}; and {', '.join(theirs.metrics)}; measure "
            "one of them again with the other's metrics.names"
        )
    for what, here, there, next_step in (
        ("protocol", protocol_of(mine), protocol_of(theirs),
         "score one of them again by the other's protocol"),
        ("protocol of sampling", str(mine.protocol), str(theirs.protocol), "make the older one anew"),
        *_references(mine, theirs, shared),
        *_solutions(mine, theirs, shared),
        *(
            (f"detector of {name}", detectors_of_metric(mine, name), detectors_of_metric(theirs, name),
             "measure both with the same weights, or choose others with metrics=NAME,...")
            for name in shared
        ),
    ):  # fmt: skip
        if here != there:
            raise UserError(
                f"{files} cannot be compared: the {what} is {here} of the first, {there} of the second; "
                f"{next_step}"
            )


def protocol_of(record: Record) -> str:
    """By which protocol of the field its metrics were measured."""
    return str(record.spec["metrics"].get("protocol") or "our own")


def _references(mine: Record, theirs: Record, shared: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """What the reference is known by, of both: its content, and that of features given beside it."""
    parts = [("reference", "name", "sha256")]
    if any(metric.family.needs == "features" for metric in singles(shared)):
        parts.append(("file of real features", "features", "features_sha256"))
    for what, name, sha256 in parts:
        facts = [record.reference for record in (mine, theirs)]
        if all(sha256 in each for each in facts) and facts[0][sha256] != facts[1][sha256]:
            here, there = (f"'{each.get(name)}' ({each[sha256][:12]})" for each in facts)
            yield what, here, there, "measure both against one"


def _solutions(mine: Record, theirs: Record, shared: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """What solver errors are distances to, of both."""
    if solver_errors(shared):
        here, there = (each.solution or "none" for each in (mine, theirs))
        yield "converged solution", here, there, "measure both with one metrics.converged"


def of_any_size(name: str) -> bool:
    """Whether a metric's expected value does not depend on the number of images."""
    return all(split_name(part.name)[0] in OF_ANY_SIZE for part in singles([name]))


def detectors_of_metric(record: Record, name: str) -> str:
    """The detectors of a metric, with the hash of their weights."""
    needed = key_names([name])
    return ", ".join(sorted(key for key in record.detectors if key.rpartition("-")[0] in needed)) or "unknown"


def _row(
    metric: AnyMetric, name: str, entry: NamedRecord, base: NamedRecord, called: str, base_called: str
) -> ComparisonRow:
    """Without corrected p and verdict, but where they do not depend on the other rows."""
    mine, theirs = entry.record, base.record
    difference = difference_of(mine, theirs, name)
    same_size = abs(mine.num_images - theirs.num_images) <= SAME_SIZE * theirs.num_images
    comparable = same_size or of_any_size(name)
    p = p_value(difference) if comparable else math.nan
    given = "" if comparable else OTHER_SIZE
    return ComparisonRow(
        metric=name,
        title=metric.title,
        lower=metric.lower,
        record=called,
        baseline=base_called,
        value=_estimate(mine.metrics[name]),
        base_value=_estimate(theirs.metrics[name]),
        difference=difference,
        p=p,
        p_holm=p,
        verdict=EQUAL if comparable and not any(difference) else given,
        lack=pairing_lack(mine, theirs, name),
        run_id=mine.run_id,
        base_run_id=theirs.run_id,
        seeds=mine.seeds,
        base_seeds=theirs.seeds,
        file=str(entry.file),
        base_file=str(base.file),
    )


def _estimate(metric: MetricRecord) -> tuple[float, float]:
    return metric.value, metric.standard_error


def _with_verdicts(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """The rows with p values corrected for their number, and the verdicts that follow."""
    corrected = holm([row.p for row in rows])
    several = sum(not math.isnan(p) for p in corrected) > 1
    return [
        replace(
            row,
            p_holm=p,
            verdict=row.verdict or verdict(row.difference, row.lower, p if several else None),
        )
        for row, p in zip(rows, corrected, strict=True)
    ]


def _caption(
    entries: Sequence[NamedRecord], rows: Sequence[ComparisonRow], common: str, num_pairs: int
) -> str:
    """What all records have in common, what the columns mean, and over what p values are corrected."""
    sizes = sorted({entry.record.num_images for entry in entries})
    images = f"{' to '.join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1])))} images each"
    tested = sum(not math.isnan(row.p) for row in rows)
    metrics = len({row.metric for row in rows})
    family = f"{num_pairs} pair{'s' * (num_pairs > 1)} of records, {metrics} metric{'s' * (metrics > 1)}"
    corrected = (
        f"p (Holm) is corrected for the {tested} comparisons of this table ({family}); better and worse are "
        f"those below {LEVEL:.4f}"
        if tested > 1
        else f"better and worse are those with p below {LEVEL:.4f}"
    )
    pairing = "where the line says so" if any(row.lack for row in rows) else "on the same seeds or file names"
    return (
        f"{common}{'; ' * bool(common)}{images}. Δ is value minus baseline, paired {pairing}; ± is one "
        "jackknife standard error; z is Δ in standard errors, p two-sided; "
        f"{corrected} ({RESOLVED:g} standard errors of one comparison). {SEEDS_ONLY}"
    )


def _notes(
    entries: Sequence[NamedRecord], pairs: Sequence[tuple[int, int]], rows: Sequence[ComparisonRow]
) -> list[str]:
    """What a reader has to know of unpaired rows, and of sets of other sizes."""
    notes = []
    lacks = dict.fromkeys(row.lack for row in rows if row.lack)
    if lacks:
        notes.append(
            "unpaired differences add the errors of both records, as of independent images; records of the "
            "same seeds or file names, and of as many jackknife groups, are paired, which is surer"
        )
    if any("in both" in lack or "groups" in lack for lack in lacks):
        notes.append(
            "records that share seeds are correlated, which an unpaired error leaves out; it is mostly too "
            "large then"
        )
    if any(row.verdict == OTHER_SIZE for row in rows):
        sizes = {entries[number].record.num_images for pair in pairs for number in pair}
        notes.append(
            f"records of {', '.join(map(str, sorted(sizes)))} images are compared only in metrics that do "
            "not move with that number, such as KID, FD∞ and precision; score as many images of each for the "
            "others"
        )
    return notes
