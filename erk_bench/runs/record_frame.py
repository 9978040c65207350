"""Records as rows of a table that other programs read: pandas, CSV, Parquet.

A row has what the record is called, the settings that people filter by, and each metric with its standard
error. A set of images has no sampler's settings.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.extras import need
from erk_bench.base.files import open_atomic, write_atomic
from erk_bench.runs.records import Record
from erk_bench.spec import RunSpec

if TYPE_CHECKING:
    import pandas

Value = str | int | float | None

# The columns of every table, and what they hold.
COLUMNS: dict[str, type[str] | type[int] | type[float]] = {
    "name": str, "run_id": str, "model": str, "solver": str, "steps": int, "guidance": str, "weight": float,
    "correction": str, "w_stiff": float, "w_con": float, "seeds": str, "num_images": int, "nfe": float,
    "nfe_guide": float, "seconds_per_1000": float, "reference": str, "protocol": str,
    "sampling_protocol": int, "created": str, "device": str, "commit": str, "file": str,
}  # fmt: skip
ERROR = "_se"  # ends the name of a standard error's column


def columns_of(records: Sequence[Record], settings: Sequence[str] = ()) -> dict[str, type[Any]]:
    """Names and types of the columns: COLUMNS, then metrics with their errors, then more settings."""
    metrics = dict.fromkeys(name for record in records for name in record.metrics)
    found: dict[str, type[Any]] = dict(COLUMNS)
    found |= {column: float for name in metrics for column in (name, f"{name}{ERROR}")}
    return found | {name: str for name in settings if name not in found}


def rows_of(
    records: Sequence[Record], files: Sequence[Path], settings: Sequence[str] = ()
) -> list[dict[str, Value]]:
    """A row for each record, by the names of `columns_of`; what a record has not is absent.

    settings: names of more settings, such as "schedule.rho"; their values are texts. Raises UserError for one
    that no record has.
    """
    flat = [dict(_flat(record.spec)) for record in records]
    known = dict.fromkeys(name for content in flat for name in content)
    for name in settings:
        if name not in known:
            ends = [key for key in known if key.rpartition(".")[2] == name]
            told = ", ".join(ends) or "those of the records' spec, such as schedule.rho"
            raise unknown_name("setting of the records", name, ends or known, told)
    found = []
    for record, file, content in zip(records, files, flat, strict=True):
        row: dict[str, Value] = {name: content[name] for name in settings if name in content}
        row |= {**_row(record), "file": str(file)}
        for name, metric in record.metrics.items():
            row |= {name: float(metric.value), f"{name}{ERROR}": float(metric.standard_error)}
        found.append({name: _plain(value) for name, value in row.items() if value is not None})
    return found


def _plain(value: Value) -> Value:
    """Texts that every format can hold: a file's name may have bytes that are no text."""
    return value if isinstance(value, int | float) else str(value).encode(errors="backslashreplace").decode()


def _row(record: Record) -> dict[str, Value]:
    source = record.source
    row: dict[str, Value] = {
        "name": record.name,
        "run_id": record.run_id,
        "seeds": " ".join(record.pairing[1:]) if record.pairing[0] == "seeds" else None,
        "num_images": record.num_images,
        "reference": record.reference.get("name"),
        "protocol": getattr(source.metrics, "protocol", ""),
        "sampling_protocol": record.protocol,
        "created": record.created,
        "device": record.environment.get("device"),
        "commit": record.environment.get("commit"),
    }
    if isinstance(source, RunSpec):
        row |= {
            "model": source.model.name,
            "solver": source.solver.name,
            "steps": source.schedule.num_steps,
            "guidance": source.guidance.name if source.guidance.active else "none",
            "weight": source.guidance.weight,
            "correction": source.correction.name if source.correction.w_stiff else "none",
            "w_stiff": source.correction.w_stiff,
            "w_con": source.correction.w_con,
            "nfe": float(record.nfe),
            "nfe_guide": float(record.nfe_guide),
            "seconds_per_1000": record.seconds_per_1000,
        }
    return row


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted names of settings and their values as texts."""
    found = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", "" if value is None else str(value)))
    return found


def to_frame(
    records: Sequence[Record], files: Sequence[Path], settings: Sequence[str] = ()
) -> pandas.DataFrame:
    """The rows as a pandas.DataFrame. Raises UserError where pandas is not installed."""
    pandas = need("pandas", "to_frame")
    columns = columns_of(records, settings)
    frame = pandas.DataFrame(rows_of(records, files, settings), columns=list(columns))
    return frame.astype({name: float for name, kind in columns.items() if kind is float})


def to_csv(records: Sequence[Record], files: Sequence[Path], settings: Sequence[str] = ()) -> str:
    """The rows as CSV, numbers in full."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(columns_of(records, settings)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows_of(records, files, settings))
    return buffer.getvalue()


def write(path: Path, records: Sequence[Record], files: Sequence[Path], settings: Sequence[str] = ()) -> None:
    """Write the rows as CSV or Parquet, as the ending of `path` says, atomically.

    Raises UserError for another ending, and for Parquet where pyarrow is not installed.
    """
    check_ending(path)
    if path.suffix == ".csv":
        write_atomic(path, to_csv(records, files, settings).encode())
        return
    import pyarrow
    from pyarrow import parquet

    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    columns = columns_of(records, settings)
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    table = pyarrow.Table.from_pylist(rows_of(records, files, settings), schema=schema)
    with open_atomic(path) as file:
        parquet.write_table(table, file)


def check_ending(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is read."""
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"to is '{path}'; the file ends in .csv or .parquet")
    if path.suffix == ".parquet":
        need("pyarrow", "a Parquet file", "write a .csv file")
