"""Tables for LaTeX papers: a page wide, the best values bold, every name escaped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from erk_bench.reporting.columns import Column, R, fitting
from erk_bench.reporting.table_views import TableRow, TableView, columns_of

PAGE = 112  # characters of a line of \footnotesize in 6.5 inches, a gap between columns counted as GAP
GAP = 2.0
PAGE_ROWS = 46  # rows that a page holds below a caption

# Brackets and stars would be taken as options of a line's end before them.
SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "[": "{[}", "]": "{]}", "*": "{*}",
    "<": "$<$", ">": "$>$", "|": "$|$", '"': "''",
    "±": r"$\pm$", "×": r"$\times$", "÷": r"$\div$", "·": r"$\cdot$", "−": "$-$", "∞": r"$\infty$",
    "→": r"$\rightarrow$", "←": r"$\leftarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "⇒": r"$\Rightarrow$", "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "≈": r"$\approx$",
    "√": r"$\surd$", "∂": r"$\partial$", "∇": r"$\nabla$", "∑": r"$\sum$", "∈": r"$\in$", "∆": r"$\Delta$",
    "²": "$^2$", "³": "$^3$", "°": r"$^\circ$", "µ": r"$\mu$", "–": "--", "—": "---", "…": r"\ldots{}",
    "‘": "`", "’": "'", "“": "``", "”": "''", "\u00a0": "~", "ß": r"\ss{}", "ø": r"\o{}", "Ø": r"\O{}",
    "æ": r"\ae{}", "Æ": r"\AE{}", "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}",
}  # fmt: skip
# Capital letters that look like Latin ones have no command; omicron neither.
GREEK = dict(
    zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧοϵςϕ", (*"ABEZHIKMNOPTX", "o", r"\epsilon", r"\varsigma", r"\phi"), strict=True)
)
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u0327": "c", "\u030c": "v",
    "\u030a": "r", "\u0304": "=", "\u0306": "u", "\u0307": ".", "\u030b": "H",
}  # fmt: skip


def latex(view: TableView) -> str:
    """One or several `table*` of at most a page, with caption and label.

    Columns that no page has room for are left out, and named in a comment; those of `chosen` never.
    """
    every = columns_of(view)
    if not view.chosen:
        every = [_ranked(column, view) for column in every if not column.wraps]
    columns = fitting(every, view.rows, PAGE, GAP)
    hidden = [column.key for column in every if column not in columns]
    best = _best_cells(view, columns)
    meant = " Bold: the best of a guidance and number of evaluations." if best else ""
    every_row = f" All rows: {view.rows[0].guidance}." if "guidance" in hidden else ""
    caption = f"{view.caption}{every_row}{meant}"
    head = Head(view.title, caption, view.name, hidden, " (columns=... chooses)")
    return tables(head, columns, _pages(view.rows), best, _parted)


class Head(NamedTuple):
    """What stands above a table. name: of its label.

    hidden: columns that were left out to fit a page. choice: ends that sentence, how to choose others.
    """

    title: str
    caption: str
    name: str
    hidden: Sequence[str] = ()
    choice: str = ""


def tables(
    head: Head,
    columns: Sequence[Column[R]],
    pages: Iterable[Sequence[R]],
    best: Collection[tuple[int, str]],
    parted: Callable[[R, R], bool],
) -> str:
    """A `table*` for each of the pages, with booktabs' rules, the caption and label in the first.

    best: (id of the row, key of the column) of bold cells. parted: whether a line is between two rows.
    """
    lines = [f"% {_one_line(head.title)}", r"% needs \usepackage{booktabs}"]
    if head.hidden:
        hidden = _one_line(", ".join(head.hidden))
        lines.append(f"% left out to fit a page: {hidden}{head.choice}")
    caption = escaped(f"{_sentence(head.title)} {head.caption}")
    above = [rf"\caption{{{caption}}}", rf"\label{{tab:{_label(head.name)}}}", r"\vspace{4pt}"]
    for number, rows in enumerate(pages):
        lines += [r"\begin{table*}[tp]", r"\centering", r"\footnotesize", r"\setlength{\tabcolsep}{4pt}"]
        lines += [r"\textit{(continued)}\\[2pt]"] if number else above
        lines += _tabular(columns, rows, best, parted)
        lines.append(r"\end{table*}")
    return "\n".join(lines) + "\n"


def _ranked(column: Column[TableRow], view: TableView) -> Column[TableRow]:
    """A column with its rank for a page: times and guidance that never changes go first."""
    headline = next(iter(view.rows[0].metrics))
    if column.key == "guidance":
        return replace(column, rank=7 if len({row.guidance for row in view.rows}) == 1 else 0)
    of_paper = {"seconds_per_1000": 9, "overhead": 8, "verdict": 6, "baseline": 5, "difference": 2, "nfe": 1}
    kept = column.key in ("steps", "method", headline)
    return replace(
        column, rank=0 if kept else of_paper.get(column.key, 3 if "published" in column.key else 4)
    )


def _tabular(
    columns: Sequence[Column[R]],
    rows: Sequence[R],
    best: Collection[tuple[int, str]],
    parted: Callable[[R, R], bool],
) -> list[str]:
    shape = "".join("l" if column.left else "r" for column in columns)
    lines = [
        rf"\begin{{tabular}}{{@{{}}{shape}@{{}}}}",
        r"\toprule",
        " & ".join(escaped(column.header) for column in columns) + r" \\",
        r"\midrule",
    ]
    for before, row in zip((None, *rows), rows, strict=False):
        if before is not None and parted(before, row):
            lines.append(r"\midrule")
        cells = []
        for column in columns:
            text = escaped(column.cell(row))
            cells.append(rf"\textbf{{{text}}}" if (id(row), column.key) in best else text)
        lines.append(" & ".join(cells) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _parted(before: TableRow, row: TableRow) -> bool:
    return before.guidance != row.guidance


def _pages(rows: Sequence[TableRow]) -> Iterator[Sequence[TableRow]]:
    """Parts of about equal length that a page holds, cut between guidances or steps where that is near."""
    count = -(-len(rows) // PAGE_ROWS)
    size = -(-len(rows) // count)
    start = 0
    while start < len(rows):
        stop = min(start + size, len(rows))
        if stop < len(rows):
            near = range(stop, max(start, stop - size // 4), -1)
            by_guidance = [at for at in near if rows[at].guidance != rows[at - 1].guidance]
            by_steps = [at for at in near if rows[at].steps != rows[at - 1].steps]
            stop = (by_guidance or by_steps or [stop])[0]
        yield rows[start:stop]
        start = stop


def _best_cells(view: TableView, columns: Sequence[Column[TableRow]]) -> set[tuple[int, str]]:
    """(id of the row, key of the column) of the best values of each metric among rows of equal cost.

    Where no two rows of a guidance have one cost, among all its rows.
    """
    groups: dict[tuple[object, ...], list[TableRow]] = {}
    for row in view.rows:
        groups.setdefault((row.guidance, row.cost), []).append(row)
    for guidance in dict.fromkeys(row.guidance for row in view.rows):
        keys = [key for key in groups if key[0] == guidance]
        if all(len(groups[key]) == 1 for key in keys):
            groups[(guidance,)] = [row for key in keys for row in groups.pop(key)]
    found = set()
    headline = next(iter(view.rows[0].metrics))
    for column in columns:
        if not column.metric:
            continue
        lower = view.lower if column.metric == headline else column.metric not in view.higher
        for rows in groups.values():
            values = [row.metrics[column.metric][1][0] for row in rows]
            best = min(values) if lower else max(values)
            if len(rows) > 1 and min(values) < max(values):
                found |= {
                    (id(row), column.key) for row, value in zip(rows, values, strict=True) if value == best
                }
    return found


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is, in ASCII; a minus before a number is one of mathematics."""
    text = re.sub(r"(?<![\w.)\]])-(?=\.?\d)", "−", _one_line(text))
    text = re.sub(r"(?<=\d)e-(?=\d)", "e−", text)
    return "".join(_character(sign) for sign in unicodedata.normalize("NFC", text))


def _character(sign: str) -> str:
    if sign in SPECIAL:
        return SPECIAL[sign]
    if sign.isascii():
        return sign
    if sign in GREEK:
        return f"${GREEK[sign]}$"
    name = unicodedata.name(sign, "")
    if re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER [A-Z]+", name):
        _, size, _, letter = name.split()
        letter = {"LAMDA": "LAMBDA"}.get(letter, letter)
        return f"$\\{letter.lower() if size == 'SMALL' else letter.capitalize()}$"
    base, *marks = list(unicodedata.normalize("NFD", sign))
    if len(marks) == 1 and marks[0] in ACCENTS and base.isascii():
        return f"\\{ACCENTS[marks[0]]}{{{base}}}"
    return f"[U+{ord(sign):04X}]"


def _one_line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.:-]+", "-", name)
