"""Tables as views of rows: columns, terminal and Markdown (LaTeX: latex.py, CSV: table_csv.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from erk_bench.reporting.columns import FILES_ONLY, Column, fitting, markdown_table, rich_table

# A value and its standard error.
Estimate = tuple[float, float]

DASH = "–"
# Pictures of a table as table files name them: module:function, whose import takes long.
FIGURES = {
    "steps": "erk_bench.reporting.table_figures:steps_figure",
    "nfe": "erk_bench.reporting.table_figures:nfe_figure",
    "convergence": "erk_bench.reporting.convergence_figures:convergence_figure",
}
NO_FIGURE = "none"  # in the place of one


class PublishedValue(NamedTuple):
    """A published value, measured minus published, and whether that is within the table's tolerance.

    within: None where the two must not be compared.
    """

    value: float
    gap: float
    within: bool | None


class Floor(NamedTuple):
    """A level near which an error does not tell of the solver; from `clear` on it does."""

    level: float
    clear: float


class SetSummary(NamedTuple):
    """Standard deviation and minimum of a metric over several seed sets."""

    spread: float
    minimum: float


@dataclass(frozen=True)
class TableRow:
    """One row as shown. metrics: (title, estimate) by metric name, the headline first.

    difference: headline minus that of the row's baseline on the same seeds, with its paired standard error;
    verdict: "better", "worse" or "not resolved". overhead: relative extra time over the plain solver.
    baseline: which row that is, where the table says so. labelled: `method` is a name that the table gives.
    reproduction: how far the headline is from the reference record, empty without one; off: farther than
    tolerated. published: by metric name. sets: spread and minimum by metric name, where there are several
    seed sets; the estimates are means then. solver: its title and options, those of a corrected row too.
    steps: None for a set of images, of which nobody knows what it cost. order: of the solver over a whole
    run, None where it is not known. floors: of solver errors, by what they are.
    """

    steps: int | None
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
    baseline: str = ""
    labelled: bool = False
    order: int | None = None
    floors: Mapping[str, Floor] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """Evaluations of both networks for one image."""
        return self.nfe + self.nfe_guide


@dataclass(frozen=True)
class TableView:
    """A table ready to be shown; `lower` values of the headline metric are better or not.

    notes: findings over several rows, and warnings, a sentence each. name: of its files. higher: metrics of
    which higher values are better. chosen: keys of the columns that are shown, in their order; empty for all
    that have values.
    """

    title: str
    caption: str
    rows: tuple[TableRow, ...]
    lower: bool = True
    notes: tuple[str, ...] = ()
    name: str = "table"
    higher: frozenset[str] = frozenset()
    chosen: tuple[str, ...] = ()


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


def _evaluations(row: TableRow) -> str:
    if row.steps is None:
        return DASH
    return f"{row.nfe}+{row.nfe_guide}" if row.nfe_guide else str(row.nfe)


def column_keys(metrics: Sequence[str]) -> list[str]:
    """Every key of a table that measures these metrics, the headline first."""
    ends = ("", "_spread", "_minimum")
    of_metrics = [f"{name}{end}" for name in metrics for end in ends]
    return [
        "guidance", "steps", "method", "nfe", *of_metrics, *(f"published_{name}" for name in metrics),
        "difference", "verdict", "baseline", "seconds_per_1000", "overhead", "reproduced",
    ]  # fmt: skip


def columns_of(view: TableView) -> list[Column[TableRow]]:
    """The columns that the view's `chosen` names, else all that have values."""
    if view.chosen:
        known = {column.key: column for column in _columns(view, every=True)}
        return [replace(known[key], rank=0) for key in view.chosen]
    return _columns(view)


def _columns(view: TableView, *, every: bool = False) -> list[Column[TableRow]]:
    """every: also those that have no value in any row."""

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
    shown = [name for name in names if every or any(name in row.published for row in view.rows)]
    several = every or any(row.sets for row in view.rows)
    against = every or any(row.baseline for row in view.rows)
    columns = [
        Column("guidance", "guidance", lambda row: row.guidance, left=True),
        Column("steps", "steps", lambda row: DASH if row.steps is None else str(row.steps)),
        Column("method", "method", lambda row: row.method, left=True),
        Column("nfe", "NFE", _evaluations, rank=5),
        Column(names[0], headline, metric(names[0]), metric=names[0]),
        *(
            Column(f"{name}_{part}", f"{title} {short}", over_sets(name, part), rank=2)
            for name, title in (zip(names, titles, strict=True) if several else ())
            for part, short in (("spread", "spread"), ("minimum", "min"))
        ),
        *(
            Column(f"published_{name}", f"published {titles[names.index(name)]}", published(name), rank=1)
            for name in shown
        ),
        Column(
            "difference",
            f"Δ {headline}",
            lambda row: rounded(row.difference, "+") if row.difference else DASH,
            rank=1,
        ),
        Column("verdict", "verdict", lambda row: row.verdict or DASH, rank=2, left=True),
        *(
            Column[TableRow](key, key, lambda row: row.baseline or DASH, rank=2, left=True)
            for key in (["baseline"] if against else [])
        ),
        *(
            Column(name, title, metric(name), rank=2 if name in shown else FILES_ONLY, metric=name)
            for name, title in zip(names[1:], titles[1:], strict=True)
        ),
        Column(
            "seconds_per_1000",
            "s / 1000",
            lambda row: DASH if row.seconds_per_1000 is None else f"{row.seconds_per_1000:.1f}",
            rank=6,
        ),
        Column(
            "overhead",
            "overhead",
            lambda row: DASH if row.overhead is None else _percent(row.overhead),
            rank=4,
        ),
        Column(
            "reproduced", "reproduced", lambda row: row.reproduction or DASH, rank=3, left=True, wraps=True
        ),
    ]
    compared = every or any(row.reproduction for row in view.rows)
    return columns if compared else [column for column in columns if column.key != "reproduced"]


def print_table(view: TableView, console: Console) -> None:
    """Show the table in a terminal, with the columns that fit there; the caption names the others."""
    every = [column for column in columns_of(view) if column.rank != FILES_ONLY]
    columns = fitting(every, view.rows, console.width - 1, 3)  # a space on either side and a line
    hidden = [column.header for column in every if column not in columns]
    caption = f"{view.caption} Too wide for this terminal: {', '.join(hidden)}." if hidden else view.caption
    styles = {"better": "green", "worse": "red"}
    table = rich_table(
        columns,
        view.rows,
        title=view.title,
        caption=caption,
        style=lambda row: "bold red" if row.off else styles.get(row.verdict, ""),
        parted=lambda before, row: before.guidance != row.guidance,
    )
    console.print(table)
    for note in view.notes:
        console.print(Text(f"note: {note}"))


def markdown(view: TableView) -> str:
    """GitHub Markdown."""
    notes = [line for note in view.notes for line in ("", f"Note: {note}.")]
    table = markdown_table(columns_of(view), view.rows)
    return "\n".join([f"# {view.title}", "", *table, "", view.caption, *notes]) + "\n"
