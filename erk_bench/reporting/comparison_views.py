"""Comparisons of records: columns, terminal, Markdown, LaTeX and CSV (picture: comparison_figures.py)."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.text import Text

from erk_bench.reporting.columns import Column, fitting, markdown_table, rich_table
from erk_bench.reporting.latex import GAP, PAGE, PAGE_ROWS, Head, tables
from erk_bench.reporting.table_views import DASH, Estimate, rounded

SMALLEST = 0.0001  # p values below are shown as that
SMALLEST_SHOWN = 1e-5  # differences below are shown with powers of ten
NAMED = ("record", "baseline")  # keys of the columns that name records
LONG = 60  # characters of a name that may take several lines
MANY_ROWS = 4  # of a metric, from which on their verdicts are counted below the table
# Verdicts beside those of `verdicts.verdict`: of the same values, and of sets of other sizes.
EQUAL, OTHER_SIZE = "equal", "not comparable"


@dataclass(frozen=True)
class ComparisonRow:
    """A metric of one record beside that of its baseline.

    title: of the metric, of which lower values are better or not. record, baseline: what the two are called;
    with their run ids, seeds (or "" of a set) and files. value, base_value: with their standard errors.
    difference: value minus base_value, with the standard error of that. p_holm: corrected for all comparisons
    of the table; NaN, as p, where there is no verdict. lack: why the two are no pair; "" where they are.
    """

    metric: str
    title: str
    lower: bool
    record: str
    baseline: str
    value: Estimate
    base_value: Estimate
    difference: Estimate
    p: float
    p_holm: float
    verdict: str
    lack: str
    run_id: str = ""
    base_run_id: str = ""
    seeds: str = ""
    base_seeds: str = ""
    file: str = ""
    base_file: str = ""

    @property
    def z(self) -> float:
        """The difference in standard errors; infinite for one without error, 0 for none."""
        value, error = self.difference
        if error == 0 and not math.isnan(value):
            return math.copysign(math.inf, value) if value else 0.0
        return value / error

    @property
    def pairing(self) -> str:
        return f"unpaired: {self.lack}" if self.lack else "paired"

    @property
    def change(self) -> float | None:
        """The difference relative to the baseline; None where that is no clear positive value."""
        value, error = self.base_value
        return self.difference[0] / value if value > 2 * error else None


@dataclass(frozen=True)
class ComparisonView:
    """Comparisons ready to be shown, the rows of a metric together.

    caption: how it was measured. notes: warnings, a sentence each.
    """

    title: str
    caption: str
    rows: tuple[ComparisonRow, ...]
    notes: tuple[str, ...] = ()
    name: str = "compare"

    @property
    def corrected(self) -> bool:
        """Whether there are several comparisons, so that Holm's correction changes something."""
        return sum(not math.isnan(row.p) for row in self.rows) > 1


def columns_of(view: ComparisonView) -> list[Column[ComparisonRow]]:
    """The columns of every view but CSV: without those that would say the same in every row."""
    long = any(len(name) > LONG for row in view.rows for name in (row.record, row.baseline))
    columns = [
        Column[ComparisonRow]("metric", "metric", _metric, left=True),
        Column("record", "record", lambda row: row.record, left=True, wraps=long),
        Column("baseline", "against", lambda row: row.baseline, left=True, wraps=long),
        Column("value", "value", lambda row: rounded(row.value), rank=3),
        Column("base_value", "baseline", lambda row: rounded(row.base_value), rank=4),
        Column("difference", "Δ", shown_difference),
        Column("change", "Δ / baseline", lambda row: DASH if row.change is None else f"{row.change:+.1%}",
               rank=5),
        Column("z", "z", lambda row: _number(row.z, "+.1f"), rank=6),
        Column("p", "p", lambda row: _p(row.p), rank=7 if view.corrected else 2),
        Column("p_holm", "p (Holm)", lambda row: _p(row.p_holm), rank=2),
        Column("verdict", "verdict", lambda row: row.verdict, left=True),
        Column("pairing", "pairing", lambda row: row.pairing, left=True, wraps=True),
    ]  # fmt: skip
    left_out = set() if view.corrected else {"p_holm"}
    if len({(row.record, row.baseline) for row in view.rows}) == 1:
        left_out |= {"record", "baseline"}  # the title has both
    elif len({row.baseline for row in view.rows}) == 1:
        left_out.add("baseline")
    if not any(row.lack for row in view.rows):
        left_out.add("pairing")  # the caption says it
    return [column for column in columns if column.key not in left_out]


def _metric(row: ComparisonRow) -> str:
    return f"{row.title} {'↓' if row.lower else '↑'}"


def shown_difference(row: ComparisonRow) -> str:
    """The difference and its error; with powers of ten where their figures would all be zeros."""
    value, error = row.difference
    if not any(row.difference):
        return "0"
    if math.isnan(value):
        return DASH
    if max(abs(value), error) < SMALLEST_SHOWN:
        return f"{value:+.1e} ± {error:.1e}"
    return rounded(row.difference, "+")


def _number(value: float, form: str) -> str:
    if math.isnan(value):
        return DASH
    return f"{value:{form}}" if math.isfinite(value) else ("∞" if value > 0 else "−∞")


def _p(value: float) -> str:
    return f"<{SMALLEST}" if value < SMALLEST else _number(value, ".2g")


def _parted(before: ComparisonRow, row: ComparisonRow) -> bool:
    """A line between metrics that have several rows."""
    return before.metric != row.metric and (before.record, before.baseline) != (row.record, row.baseline)


def counts(view: ComparisonView) -> list[str]:
    """How many rows of each metric have which verdict, where there are many."""
    found = []
    for metric in dict.fromkeys(row.metric for row in view.rows):
        rows = [row for row in view.rows if row.metric == metric]
        counted = Counter(row.verdict for row in rows)
        if len(rows) >= MANY_ROWS:
            found.append(f"{rows[0].title}: {', '.join(f'{n} {name}' for name, n in counted.most_common())}")
    return found


def print_comparison(view: ComparisonView, console: Console) -> None:
    """Show it in a terminal, with the columns that fit there; the caption names the others."""
    every = columns_of(view)
    columns = fitting(every, view.rows, console.width - 1, 3)
    hidden = [column.header for column in every if column not in columns]
    # Where even these are too many, names take several lines, so that the pairing stays.
    columns = [replace(column, wraps=column.wraps or column.key in NAMED) for column in columns]
    caption = f"{view.caption} Too wide for this terminal: {', '.join(hidden)}." if hidden else view.caption
    styles = {"better": "green", "worse": "red", OTHER_SIZE: "yellow", "undefined": "yellow"}
    table = rich_table(
        columns,
        view.rows,
        title=view.title,
        caption=caption,
        style=lambda row: styles.get(row.verdict, ""),
        parted=_parted,
    )
    console.print(table)
    for line in counts(view):
        console.print(Text(line))
    for note in view.notes:
        console.print(Text(f"note: {note}"))


def markdown(view: ComparisonView) -> str:
    """GitHub Markdown."""
    notes = [line for note in (*counts(view), *view.notes) for line in ("", f"Note: {note}.")]
    table = markdown_table(columns_of(view), view.rows)
    return "\n".join([f"# {view.title}", "", *table, "", view.caption, *notes]) + "\n"


def latex(view: ComparisonView) -> str:
    """One or several `table*`, resolved verdicts bold, with the columns that a page has room for."""
    every = columns_of(view)
    columns = fitting(every, view.rows, PAGE, GAP)
    hidden = [column.key for column in every if column not in columns]
    bold = {(id(row), "verdict") for row in view.rows if row.verdict in ("better", "worse")}
    notes = "".join(f" {note[0].upper()}{note[1:]}." for note in view.notes)
    head = Head(view.title, f"{view.caption}{notes}", view.name, hidden)
    return tables(head, columns, _pages(view.rows), bold, _parted)


def _pages(rows: Sequence[ComparisonRow]) -> Iterator[Sequence[ComparisonRow]]:
    count = -(-len(rows) // PAGE_ROWS)
    size = -(-len(rows) // count)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def to_csv(view: ComparisonView) -> str:
    """CSV with full precision; what is no number is empty."""
    buffer = io.StringIO()
    lines = [_line(row) for row in view.rows]
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _line(row: ComparisonRow) -> dict[str, object]:
    numbers = {
        "value": row.value[0], "value_se": row.value[1], "baseline_value": row.base_value[0],
        "baseline_value_se": row.base_value[1], "difference": row.difference[0],
        "difference_se": row.difference[1], "z": row.z, "p": row.p, "p_holm": row.p_holm,
    }  # fmt: skip
    return {
        "metric": row.metric, "better": "lower" if row.lower else "higher", "record": row.record,
        "baseline": row.baseline,
        **{name: "" if math.isnan(value) else value for name, value in numbers.items()},
        "verdict": row.verdict, "pairing": row.pairing, "run_id": row.run_id, "seeds": row.seeds,
        "file": row.file, "baseline_run_id": row.base_run_id, "baseline_seeds": row.base_seeds,
        "baseline_file": row.base_file,
    }  # fmt: skip
