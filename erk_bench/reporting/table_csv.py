"""Tables as CSV, with full precision."""

from __future__ import annotations

import csv
import io

from erk_bench.reporting.table_views import SetSummary, TableRow, TableView


def to_csv(view: TableView) -> str:
    """CSV with full precision; errors in columns of their own, right behind a chosen column."""
    names = list(view.rows[0].metrics)
    shown = [name for name in names if any(name in row.published for row in view.rows)]
    named = ["baseline"] if any(row.baseline for row in view.rows) else []
    several = names if any(row.sets for row in view.rows) else []
    metric_headers = [part for name in names for part in (name, f"{name}_se")]
    lines: list[list[object]] = [
        ["guidance", "steps", "method", "nfe", "nfe_guide", *metric_headers, "difference",
         "difference_se", "verdict", *named, "seconds_per_1000", "overhead", "overhead_se", "reproduced",
         *(f"published_{part}" for part in shown), *(f"{part}_off_published" for part in shown),
         *(f"{name}_{part}" for name in several for part in SetSummary._fields)]
    ]  # fmt: skip
    for row in view.rows:
        values = [number for name in names for number in row.metrics[name][1]]
        lines.append(
            [row.guidance, row.steps, row.method, *_evaluations(row), *values,
             *(row.difference or ("", "")), row.verdict, *(row.baseline for _ in named),
             row.seconds_per_1000, *(row.overhead or ("", "")),
             row.reproduction,
             *(row.published[name].value if name in row.published else "" for name in shown),
             *(row.published[name].gap if name in row.published else "" for name in shown),
             *(number for name in several for number in (row.sets[name] if row.sets else ("", "")))]
        )  # fmt: skip
    owners = [_owner(str(header)) for header in lines[0]]
    chosen = [place for key in view.chosen for place, owner in enumerate(owners) if owner == key]
    written = chosen or range(len(owners))
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([[line[place] for place in written] for line in lines])
    return buffer.getvalue()


def _evaluations(row: TableRow) -> tuple[float | str, float | str]:
    return ("", "") if row.steps is None else (row.nfe, row.nfe_guide)


def _owner(header: str) -> str:
    """The key of the column that a column of the CSV file belongs to."""
    if header.endswith("_off_published"):
        return f"published_{header.removesuffix('_off_published')}"
    return "nfe" if header == "nfe_guide" else header.removesuffix("_se")
