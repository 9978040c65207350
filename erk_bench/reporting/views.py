"""Tables as views of rows: terminal, Markdown, CSV and LaTeX from the same columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

# A value and its standard error.
Estimate = tuple[float, float]

DASH = "–"
FILES_ONLY = 9  # rank of columns that no terminal shows
WRAPPED = "reproduced"  # the column whose text may take several lines


class PublishedValue(NamedTuple):
    """A published value, measured minus published, and whether that is within the table's tolerance.

    within: None where the two must not be compared.
    """

    value: float
    gap: float
    within: bool | None


class SetSummary(NamedTuple):
    """Standard deviation and minimum of a metric over several seed sets."""

    spread: float
    minimum: float


@dataclass(frozen=True)
class TableRow:
    """One row as shown. metrics: (title, estimate) by metric name, the headline first.

    difference: headline minus that of the plain solver on the same seeds, with its paired standard error;
    verdict: "better", "worse" or "not resolved". overhead: relative extra time over the plain solver.
    reproduction: how far the headline is from the reference record, empty without one; off: farther than
    tolerated. published: by metric name. sets: spread and minimum by metric name, where there are several
    seed sets; the estimates are means then. solver: its title and options, those of a corrected row too.
    """

    steps: int
    guidance: str
    method: str
    nfe: float
    nfe_guide: float
    metrics: dict[str, tuple[str, Estimate]]
    difference: Estimate | None
    verdict: str
    seconds_per_1000: float | None
    overhead: Estimate | None
    reproduction: str
    off: bool
    published: Mapping[str, PublishedValue] = field(default_factory=dict)
    sets: Mapping[str, SetSummary] = field(default_factory=dict)
    solver: str = ""

    @property
    def cost(self) -> float:
        """Evaluations of both networks for one image."""
        return self.nfe + self.nfe_guide


@dataclass(frozen=True)
class TableView:
    """A table ready to be shown; `lower` values of the headline metric are better or not.

    notes: findings over several rows, and warnings, a sentence each.
    """

    title: str
    caption: str
    rows: tuple[TableRow, ...]
    lower: bool = True
    notes: tuple[str, ...] = ()


def rounded(estimate: Estimate, sign: str = "") -> str:
    """value ± error, rounded to two figures of the error."""
    value, error = estimate
    digits = 0
    while digits < 6 and abs(error) * 10**digits < 9.5:
        digits += 1
    return f"{value:{sign}.{digits}f} ± {error:.{digits}f}"


def _percent(estimate: Estimate) -> str:
    value, error = estimate
    return f"{value:+.1%} ± {error:.1%}"


class _Column:
    def __init__(self, header: str, cell: Callable[[TableRow], str], rank: int = 0) -> None:
        self.header = header
        self.cell = cell
        self.rank = rank  # in a narrow terminal the highest are left out first, never those of rank 0


def _columns(view: TableView) -> list[_Column]:
    def metric(name: str) -> Callable[[TableRow], str]:
        return lambda row: rounded(row.metrics[name][1])

    def over_sets(name: str, part: str) -> Callable[[TableRow], str]:
        def cell(row: TableRow) -> str:
            error = row.metrics[name][1][1]
            return rounded((getattr(row.sets[name], part), error)).partition(" ")[0] if row.sets else DASH

        return cell

    def published(name: str) -> Callable[[TableRow], str]:
        def cell(row: TableRow) -> str:
            found = row.published.get(name)
            return (
                f"{found.value:g} ({found.gap:+.2g}{', OFF' if found.within is False else ''})"
                if found
                else DASH
            )

        return cell

    names = list(view.rows[0].metrics)
    titles = [view.rows[0].metrics[name][0] for name in names]
    headline = titles[0]
    shown = [name for name in names if any(name in row.published for row in view.rows)]
    several = any(row.sets for row in view.rows)
    columns = [
        _Column("guidance", lambda row: row.guidance),
        _Column("steps", lambda row: str(row.steps)),
        _Column("method", lambda row: row.method),
        _Column("NFE", lambda row: f"{row.nfe}+{row.nfe_guide}" if row.nfe_guide else str(row.nfe), rank=5),
        _Column(headline, metric(names[0])),
        *(
            _Column(f"{titles[names.index(name)]} {title}", over_sets(name, part), rank=2)
            for name in (names if several else ())
            for part, title in (("spread", "spread"), ("minimum", "min"))
        ),
        *(_Column(f"published {titles[names.index(name)]}", published(name), rank=1) for name in shown),
        _Column(
            f"Δ {headline}",
            lambda row: rounded(row.difference, "+") if row.difference else DASH,
            rank=1,
        ),
        _Column("verdict", lambda row: row.verdict or DASH, rank=2),
        *(
            _Column(title, metric(name), rank=2 if name in shown else FILES_ONLY)
            for name, title in zip(names[1:], titles[1:], strict=True)
        ),
        _Column(
            "s / 1000",
            lambda row: DASH if row.seconds_per_1000 is None else f"{row.seconds_per_1000:.1f}",
            rank=6,
        ),
        _Column("overhead", lambda row: DASH if row.overhead is None else _percent(row.overhead), rank=4),
        _Column(WRAPPED, lambda row: row.reproduction or DASH, rank=3),
    ]
    compared = any(row.reproduction for row in view.rows)
    return columns if compared else [column for column in columns if column.header != WRAPPED]


def _fitting(view: TableView, width: int) -> list[_Column]:
    """The columns that a terminal of `width` characters shows uncut."""
    columns = [column for column in _columns(view) if column.rank != FILES_ONLY]

    def needed(column: _Column) -> int:
        texts = [column.header, *(column.cell(row) for row in view.rows)]
        if column.header == WRAPPED:
            texts = " ".join(texts).split()
        return max(map(len, texts)) + 3  # a space on either side and a line

    while sum(map(needed, columns)) + 1 > width and any(column.rank for column in columns):
        columns.remove(max(columns, key=lambda column: column.rank))
    return columns


def print_table(view: TableView, console: Console) -> None:
    """Show the table in a terminal, with the columns that fit there; the caption names the others."""
    columns = _fitting(view, console.width)
    shown = [column.header for column in columns]
    hidden = [
        column.header for column in _columns(view) if column.rank != FILES_ONLY and column.header not in shown
    ]
    caption = f"{view.caption} Too wide for this terminal: {', '.join(hidden)}." if hidden else view.caption
    table = RichTable(title=view.title, caption=caption, caption_justify="left")
    for column in columns:
        left = column.header in ("guidance", "method", "verdict", WRAPPED)
        table.add_column(column.header, justify="left" if left else "right", no_wrap=column.header != WRAPPED)
    styles = {"better": "green", "worse": "red"}
    for before, row in zip((None, *view.rows), view.rows, strict=False):
        if before is not None and before.guidance != row.guidance:
            table.add_section()
        style = "bold red" if row.off else styles.get(row.verdict, "")
        table.add_row(*(Text(column.cell(row), style=style) for column in columns))
    console.print(table)
    for note in view.notes:
        console.print(Text(f"note: {note}"))


def markdown(view: TableView) -> str:
    """GitHub Markdown."""
    columns = _columns(view)
    lines = [
        f"# {view.title}",
        "",
        "| " + " | ".join(column.header for column in columns) + " |",
        "|" + "---|" * len(columns),
    ]
    lines += ["| " + " | ".join(column.cell(row) for column in columns) + " |" for row in view.rows]
    notes = [line for note in view.notes for line in ("", f"Note: {note}.")]
    return "\n".join([*lines, "", view.caption, *notes]) + "\n"


def to_csv(view: TableView) -> str:
    """CSV with full precision; errors in columns of their own."""
    names = list(view.rows[0].metrics)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    shown = [name for name in names if any(name in row.published for row in view.rows)]
    several = names if any(row.sets for row in view.rows) else []
    metric_headers = [part for name in names for part in (name, f"{name}_se")]
    writer.writerow(
        ["guidance", "steps", "method", "nfe", "nfe_guide", *metric_headers, "difference",
         "difference_se", "verdict", "seconds_per_1000", "overhead", "overhead_se", "reproduced",
         *(f"published_{part}" for part in shown), *(f"{part}_off_published" for part in shown),
         *(f"{name}_{part}" for name in several for part in SetSummary._fields)]
    )  # fmt: skip
    for row in view.rows:
        values = [number for name in names for number in row.metrics[name][1]]
        writer.writerow(
            [row.guidance, row.steps, row.method, row.nfe, row.nfe_guide, *values,
             *(row.difference or ("", "")), row.verdict, row.seconds_per_1000, *(row.overhead or ("", "")),
             row.reproduction,
             *(row.published[name].value if name in row.published else "" for name in shown),
             *(row.published[name].gap if name in row.published else "" for name in shown),
             *(number for name in several for number in (row.sets[name] if row.sets else ("", "")))]
        )  # fmt: skip
    return buffer.getvalue()


def latex(view: TableView) -> str:
    """A LaTeX tabular for booktabs."""
    columns = [column for column in _columns(view) if column.header != WRAPPED]

    def escape(text: str) -> str:
        for old, new in (
            ("%", r"\%"), ("_", r"\_"), ("±", r"$\pm$"), ("Δ", r"$\Delta$"), ("–", "--"),
        ):  # fmt: skip
            text = text.replace(old, new)
        return text

    lines = [
        f"% {view.title}",
        r"\begin{tabular}{" + "lrl" + "r" * (len(columns) - 3) + "}",
        r"\toprule",
        " & ".join(escape(column.header) for column in columns) + r" \\",
        r"\midrule",
    ]
    for before, row in zip((None, *view.rows), view.rows, strict=False):
        if before is not None and before.guidance != row.guidance:
            lines.append(r"\midrule")
        lines.append(" & ".join(escape(column.cell(row)) for column in columns) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"
