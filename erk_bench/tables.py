"""From records to a table: which row is compared with which, and how sure the difference is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, stdev
from typing import Any

from erk_bench.errors import UserError
from erk_bench.evaluation.metrics import METRICS, jackknife_error
from erk_bench.reporting.records import Record, read_record
from erk_bench.reporting.views import Estimate, TableRow, TableView
from erk_bench.spec import CorrectionSpec, RunSpec

RESOLVED = 2.0  # standard errors from zero at which a difference counts as resolved


def baseline_of(spec: RunSpec) -> RunSpec:
    """The same run without its correction."""
    return dataclasses.replace(spec, correction=CorrectionSpec(name="none"))


def pairs(specs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """Rows with the same baseline together, in order; their blocks take turns, so their times compare."""
    groups: dict[str, list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault(baseline_of(spec).digest, []).append(spec)
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


def _method(spec: RunSpec) -> str:
    name = {"euler": "Euler", "heun": "Heun"}.get(spec.solver.name, spec.solver.name)
    if not spec.correction.w_stiff:
        return name
    solver = "" if name == "Heun" else f" on {name}"
    return f"ERK-Guid{solver} ({spec.correction.w_stiff:g}, {spec.correction.w_con:g})"


def _guidance(spec: RunSpec) -> str:
    if spec.guidance.weight == 1:
        return "no guidance"
    title = {"cfg": "CFG", "autoguidance": "autoguidance"}.get(spec.guidance.name, spec.guidance.name)
    return f"{title} {spec.guidance.weight:g}"


def build_view(
    table: Mapping[str, Any], records: Sequence[Record], references: Mapping[str, Record]
) -> TableView:
    """The table of `records`, in their order, each beside its baseline and its reference."""
    headline = table["headline"]
    specs = [record.run_spec for record in records]
    by_digest = {spec.digest: record for spec, record in zip(specs, records, strict=True)}
    for record in records:
        if headline not in record.metrics:
            raise UserError(
                f"{record.run_id} has no metric '{headline}', the table's headline; it has: "
                f"{', '.join(record.metrics)}. Run it with metrics.names that include it"
            )
        if set(record.metrics) != set(records[0].metrics):
            raise UserError(
                f"{record.run_id} has metrics {', '.join(record.metrics)}, {records[0].run_id} "
                f"{', '.join(records[0].metrics)}; run all rows of a table with the same metrics.names"
            )
    rows = []
    for spec, record in zip(specs, records, strict=True):
        base = by_digest.get(baseline_of(spec).digest) if spec.correction.w_stiff else None
        difference = paired_difference(record, base, headline) if base else None
        reproduced, off = reproduction(
            record, references.get(record.run_id), headline, float(table["tolerance"])
        )
        names = [headline, *(name for name in record.metrics if name != headline)]
        rows.append(
            TableRow(
                steps=spec.schedule.num_steps,
                guidance=_guidance(spec),
                method=_method(spec),
                nfe=record.nfe,
                nfe_guide=record.nfe_guide,
                metrics={
                    name: (
                        METRICS[name].title,
                        (record.metrics[name].value, record.metrics[name].standard_error),
                    )
                    for name in names
                },
                difference=difference,
                verdict=verdict(difference, METRICS[headline].lower) if difference else "",
                seconds_per_1000=record.seconds_per_1000,
                overhead=overhead(record, base) if base else None,
                reproduction=reproduced,
                off=off,
            )
        )
    first = records[0].environment
    device = ", ".join(first.get("sampled_on") or [first["device"]])
    facts = (
        f"{records[0].num_images} images a row, seeds {records[0].seeds}; ± is one jackknife standard error; "
        f"Δ is against the row without ERK-Guid on the same seeds, resolved beyond {RESOLVED:g} standard "
        f"errors; s / 1000 is one worker's seconds for 1000 images on {device}."
    )
    return TableView(
        table["title"],
        f"{' '.join(str(table['caption']).split())} {facts}",
        tuple(rows),
        METRICS[headline].lower,
    )


def read_folder(folder: Path) -> dict[str, Record]:
    """All records of a folder by run_id; empty if there is no such folder."""
    records = (read_record(path) for path in sorted(folder.glob("*.json")))
    return {record.run_id: record for record in records}
