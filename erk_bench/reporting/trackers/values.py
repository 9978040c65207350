"""What a tracker shows of launches, records, tables and images, as plain values."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from erk_bench.base.fields import to_dict
from erk_bench.reporting.table_csv import to_csv
from erk_bench.reporting.table_views import Estimate, TableView
from erk_bench.reporting.trackers.tracker import SECONDS_PER_1000, Launch, error_key
from erk_bench.runs.records import Record
from erk_bench.spec import SetSpec, Spec

SMALLEST_IMAGE = 64  # pixels; smaller ones are enlarged by whole factors
TEXT_COLUMNS = (
    "guidance",
    "method",
    "verdict",
    "baseline",
    "reproduced",
)  # of the table; all others are numbers
SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_PARTITION")


def digest(*parts: object) -> str:
    """An id for a dashboard: the same for the same parts, so that a repeat updates and never duplicates."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def runs_of(launch: Launch) -> list[str]:
    """The launch's runs with their seeds, in an order of their own."""
    return sorted(f"{spec.run_id} {spec.seeds}" for spec in launch.specs)


def launch_config(launch: Launch) -> dict[str, Any]:
    """What was started, and where."""
    return {
        "kind": launch.kind,
        "name": launch.name,
        "num_images": launch.num_images,
        "runs": runs_of(launch),
        "slurm": {name: os.environ[name] for name in SLURM if name in os.environ},
        "workers": os.environ.get("WORLD_SIZE"),  # of a launcher, of which this one reports
    }


def result_config(record: Record) -> dict[str, Any]:
    """The whole spec, nested, and what else tells this result from others."""
    return {
        **_plain_options(to_dict(record.source)),
        "run_id": record.run_id,
        "seeds": record.seeds,
        "num_images": record.num_images,
        "nfe": record.nfe,
        "nfe_guide": record.nfe_guide,
        "protocol": record.protocol,
        "reference": dict(record.reference),
        "detectors": list(record.detectors),
        "environment": dict(record.environment),
        "created": record.created,
    }


def _plain_options(content: Any) -> Any:
    """A spec as plain values, in which options are fields like the others, solver.order for example.

    Where there are none the empty list stays, as in earlier runs of a dashboard.
    """
    if not isinstance(content, dict):
        return content
    plain = {key: _plain_options(value) for key, value in content.items()}
    return {**dict(plain.pop("options")), **plain} if plain.get("options") else plain


def with_errors(metrics: Mapping[str, Estimate]) -> dict[str, float]:
    """Each metric and its standard error as two numbers."""
    values = {}
    for name, (value, error) in metrics.items():
        values[name], values[error_key(name)] = value, error
    return values


def compared(difference: Estimate | None, verdict: str) -> dict[str, float | str]:
    """A paired difference of the headline, with its standard error and the verdict; nothing without one."""
    if difference is None:
        return {}
    return {**with_errors({"difference": difference}), "verdict": verdict}


def winner(
    name: str, metrics: Mapping[str, Estimate], facts: Mapping[str, float | str], place: str = ""
) -> dict[str, float | str]:
    """The best row or cell, for a summary. facts: `compared` with its baseline. place: of its panel."""
    start = f"winner {place}".strip()
    values = {**with_errors(metrics), **facts}
    return {start: name, **{f"{start}/{key}": value for key, value in values.items()}}


def result_values(record: Record) -> dict[str, float]:
    """A result's metrics with their errors, network evaluations and time."""
    metrics = {name: (item.value, item.standard_error) for name, item in record.metrics.items()}
    values = with_errors(metrics) | {"nfe": record.nfe, "nfe_guide": record.nfe_guide}
    if record.seconds_per_1000 is not None:
        values[SECONDS_PER_1000] = record.seconds_per_1000
    return values


def tags_of(spec: Spec) -> set[str]:
    """Words to find a run by: its model, solver, and guidance and correction where it has them."""
    if isinstance(spec, SetSpec):
        return {"images", spec.name}
    found = {spec.model.name, spec.solver.name}
    if spec.guidance.active:
        found.add(spec.guidance.name)
    if spec.correction.w_stiff:
        found.add(spec.correction.name)
    return found


def launch_tags(launch: Launch) -> set[str]:
    """Tags of everything that a launch does."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return {launch.kind, launch.name, *([f"slurm-array-{array}"] if array else [])}


def numbers(view: TableView) -> tuple[list[str], list[list[str | float | None]]]:
    """Columns and rows of a table's CSV form, text as text and everything else as numbers or None."""
    header, *lines = csv.reader(io.StringIO(to_csv(view)))
    rows: list[list[str | float | None]] = [
        [
            text if name in TEXT_COLUMNS else (float(text) if text else None)
            for name, text in zip(header, line, strict=True)
        ]
        for line in lines
    ]
    return header, rows


def cell_numbers(text: str) -> tuple[list[str], list[list[str | float | None]]]:
    """Columns and rows of CSV; columns of numbers as numbers or None, others as text."""
    header, *lines = csv.reader(io.StringIO(text))
    columns = [_as_numbers(column) for column in zip(*lines, strict=True)]
    return header, [list(row) for row in zip(*columns, strict=True)]


def _as_numbers(column: Sequence[str]) -> Sequence[str | float | None]:
    try:
        return [float(text) if text else None for text in column]
    except ValueError:
        return column


def strip(images: np.ndarray, count: int) -> np.ndarray:
    """`count` images side by side, black where there are fewer; [N, H, W, C] -> [H, count * W, C]."""
    missing = np.zeros((count - len(images), *images.shape[1:]), np.uint8)
    factor = max(1, -(-SMALLEST_IMAGE // images.shape[1]))
    row = np.concatenate([*images, *missing], axis=1)
    return row.repeat(factor, axis=0).repeat(factor, axis=1)
