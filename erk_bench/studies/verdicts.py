"""How sure a difference between two records is, and which records may be compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, median, stdev

from erk_bench.base.errors import UserError
from erk_bench.evaluation.half_samples import half_sample_error
from erk_bench.evaluation.measured import jackknife_error
from erk_bench.reporting.table_views import Estimate
from erk_bench.runs.records import MetricRecord, Record

RESOLVED = 2.0  # standard errors from zero at which a difference counts as resolved
# What a verdict does not cover; said wherever there are verdicts.
SEEDS_ONLY = (
    "Standard errors are over sampling seeds; between training seeds FID varies about three times as much "
    "(arXiv 2606.20536)."
)


def paired_difference(record: Record, other: Record, metric: str) -> Estimate:
    """record minus other, with the standard error of the difference; same seeds or names only.

    From the values of halves where both records have them, else from those without each jackknife group.
    """
    if record.pairing != other.pairing:
        mine, theirs = (" ".join(each.pairing) for each in (record, other))
        raise UserError(f"{record.run_id} has {mine}, {other.run_id} {theirs}: no pair")
    a, b = record.metrics[metric], other.metrics[metric]
    if not _have_halves(a, b) and len(a.replicates) != len(b.replicates):
        raise UserError(
            f"{record.run_id} has {len(a.replicates)} jackknife groups, {other.run_id} {len(b.replicates)}; "
            "run both with the same metrics.num_groups"
        )
    return a.value - b.value, paired_error(a, b)


def paired_error(a: MetricRecord, b: MetricRecord) -> float:
    """Standard error of the difference of a metric of two runs of the same seeds."""
    error_of, differences = paired_parts(a, b)
    return error_of(differences) if all(map(math.isfinite, differences)) else math.nan


def paired_parts(a: MetricRecord, b: MetricRecord) -> tuple[Callable[[Sequence[float]], float], list[float]]:
    """The differences of halves, or without each jackknife group, and what makes a standard error of them."""
    halves = _have_halves(a, b)
    mine, theirs = (a.halves, b.halves) if halves else (a.replicates, b.replicates)
    differences = [x - y for x, y in zip(mine, theirs, strict=True)]
    return half_sample_error if halves else jackknife_error, differences


def _have_halves(a: MetricRecord, b: MetricRecord) -> bool:
    return bool(a.halves) and len(a.halves) == len(b.halves)


def unpaired_difference(record: Record, other: Record, metric: str) -> Estimate:
    """record minus other, with the standard error of the difference of independent images."""
    a, b = record.metrics[metric], other.metrics[metric]
    return a.value - b.value, math.hypot(a.standard_error, b.standard_error)


def pairing_lack(record: Record, other: Record, metric: str) -> str:
    """Why two records are no pair in a metric, in a few words; "" where they are."""
    (kind, mine), (other_kind, theirs) = record.pairing, other.pairing
    if (kind, mine) == (other_kind, theirs):
        groups = [len(each.metrics[metric].replicates) for each in (record, other)]
        return "" if groups[0] == groups[1] else f"{groups[0]} and {groups[1]} groups"
    if kind != other_kind:
        return "seeds and names"
    shared = _overlap(mine, theirs) if kind == "seeds" else 0
    return f"{shared} of the seeds in both" if shared else f"other {kind}"


def _overlap(*texts: str) -> int:
    """How many seeds the texts FIRST-LAST have in common."""
    ranges = [[int(number) for number in text.split("-")] for text in texts]
    return max(0, min(last for _, last in ranges) - max(first for first, _ in ranges) + 1)


def difference_of(record: Record, other: Record, metric: str) -> Estimate:
    """record minus other: paired where they are a pair in this metric, else unpaired."""
    lack = pairing_lack(record, other, metric)
    return (unpaired_difference if lack else paired_difference)(record, other, metric)


def p_value(difference: Estimate) -> float:
    """Two-sided, of a normal distribution: how often no difference looks as large. NaN where that is open."""
    value, error = difference
    if not (math.isfinite(value) and math.isfinite(error)):
        return math.nan
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return math.erfc(abs(value) / error / math.sqrt(2))


# Below this a p value counts as resolved: that of a difference of RESOLVED standard errors.
LEVEL = p_value((RESOLVED, 1.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for their number by Holm's step-down method, in their order.

    NaN stays NaN, and does not count. The probability that any value below LEVEL is there by chance is LEVEL
    at most, however the comparisons depend on each other (Holm 1979).
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[place] = largest
    return corrected


def verdict(difference: Estimate, lower: bool, p: float | None = None) -> str:
    """better, worse or not resolved, for a metric of which lower (or higher) values are better.

    p: corrected for the number of comparisons; RESOLVED decides without. "undefined" where a value or error
    is no number.
    """
    value, error = difference
    if not (math.isfinite(value) and math.isfinite(error)):
        return "undefined"
    resolved = abs(value) > RESOLVED * error if p is None else p < LEVEL
    if not resolved or value == 0:
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
    same = record.pairing == reference.pairing
    error = old.standard_error if same else math.hypot(old.standard_error, new.standard_error)
    limit = tolerance if same else 3 * tolerance
    gap = abs(new.value - old.value)
    distance = gap / error if error else (0.0 if gap == 0 else math.inf)
    seeds = "" if same else ", other seeds"
    if distance > limit:
        return f"OFF by {distance:.2f} SE{seeds}", True
    return f"within {distance:.2f} SE{seeds}", False


def mean_difference(sets: Sequence[Record], base: Sequence[Record], metric: str) -> Estimate:
    """Mean over the seed sets of the differences, paired where seeds or names are the same."""
    pairs = [
        (paired_difference if record.pairing == other.pairing else unpaired_difference)(record, other, metric)
        for record, other in zip(sets, base, strict=True)
    ]
    error = math.sqrt(math.fsum(error**2 for _, error in pairs)) / len(pairs)
    return fmean(value for value, _ in pairs), error


def _by_protocol(record: Record) -> str:
    return str(record.spec["metrics"].get("protocol") or "our own")


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
            ("converged solution", record.solution, first.solution),
            ("protocol", record.protocol, first.protocol),
            ("metrics by protocol", _by_protocol(record), _by_protocol(first)),
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
