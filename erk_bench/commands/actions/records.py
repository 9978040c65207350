"""`erk-bench records`: show or export what records say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from erk_bench.base.console import wide_console
from erk_bench.commands.records import RecordsOptions
from erk_bench.evaluation.metrics import METRICS
from erk_bench.reporting.columns import Column, fitting, rich_table
from erk_bench.reporting.table_views import DASH, rounded
from erk_bench.runs import record_frame
from erk_bench.runs.record_folder import Records, load_records
from erk_bench.runs.records import Record


def records(options: RecordsOptions, words: Sequence[str]) -> int:
    """Run `erk-bench records`."""
    to = None if options.to is None else Path(options.to).expanduser()
    if to is not None:
        record_frame.check_ending(to)
    found = load_records(words)
    if to is None:
        _show(found, options.settings)
    else:
        record_frame.write(to, found.records, found.files, options.settings)
    skipped = f"; {found.skipped} other JSON files are no records" if found.skipped else ""
    damaged = f"; {len(found.damaged)} damaged records are left out" if found.damaged else ""
    written = "" if to is None else f"; written: {to}"
    print(f"{len(found)} record{'s' * (len(found) > 1)}{skipped}{damaged}{written}")
    return 0


def _show(found: Records, settings: Sequence[str]) -> None:
    """What the terminal has room for, the first metrics first."""
    rows = dict(zip(map(id, found), record_frame.rows_of(found.records, found.files, settings), strict=True))

    def cell(name: str) -> Callable[[Record], str]:
        return lambda record: str(rows[id(record)].get(name, DASH))

    def estimate(name: str) -> Callable[[Record], str]:
        return lambda record: (
            rounded((record.metrics[name].value, record.metrics[name].standard_error))
            if name in record.metrics
            else DASH
        )

    metrics = dict.fromkeys(name for record in found for name in record.metrics)
    columns = [
        Column("run_id", "run", cell("run_id"), left=True),
        Column("seeds", "seeds", cell("seeds")),
        Column("num_images", "images", cell("num_images"), rank=1),
        *(Column(name, name, cell(name), rank=1, left=True) for name in settings),
        *(
            Column(name, METRICS[name].title if name in METRICS else name, estimate(name), rank=2 + place)
            for place, name in enumerate(metrics)
        ),
    ]
    console = wide_console()
    shown = fitting(columns, found.records, console.width - 1, 3)
    hidden = [column.header for column in columns if column not in shown]
    caption = f"Too wide for this terminal: {', '.join(hidden)}; to=FILE.csv has all of it." if hidden else ""
    table = rich_table(
        shown, found.records, title="", caption=caption, style=lambda _: "", parted=lambda *_: False
    )
    console.print(table)
