"""Columns of a table of any rows, and their cells in a terminal, in Markdown, as wide as there is room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.table import Table as RichTable
from rich.text import Text

R = TypeVar("R")

FILES_ONLY = 9  # rank of columns that no terminal shows


@dataclass(frozen=True)
class Column(Generic[R]):
    """A column as shown. key: its name in `columns=...` and in the CSV file. metric: whose estimate it shows.

    rank: in a narrow terminal or page the highest are left out first, never those of rank 0. left: where its
    text stands, names left and numbers right. wraps: its text may take several lines.
    """

    key: str
    header: str
    cell: Callable[[R], str]
    rank: int = 0
    metric: str = ""
    left: bool = False
    wraps: bool = False


def fitting(columns: Sequence[Column[R]], rows: Sequence[R], width: float, gap: float) -> list[Column[R]]:
    """The columns of which each row takes at most `width` characters, with `gap` of them after each cell."""
    left = list(columns)

    def needed(column: Column[R]) -> float:
        texts = [column.header, *(column.cell(row) for row in rows)]
        if column.wraps:
            texts = " ".join(texts).split()
        return max(map(len, texts)) + gap

    while sum(map(needed, left)) > width and any(column.rank for column in left):
        left.remove(max(left, key=lambda column: column.rank))
    return left


def rich_table(
    columns: Sequence[Column[R]],
    rows: Sequence[R],
    *,
    title: str,
    caption: str,
    style: Callable[[R], str],
    parted: Callable[[R, R], bool],
) -> RichTable:
    """The table for a terminal. style: of a row. parted: whether a line is between two rows."""
    table = RichTable(
        title=Text(title, style="table.title"),
        caption=Text(caption, style="table.caption"),
        caption_justify="left",
    )
    for column in columns:
        table.add_column(
            Text(column.header), justify="left" if column.left else "right", no_wrap=not column.wraps
        )
    for before, row in zip((None, *rows), rows, strict=False):
        if before is not None and parted(before, row):
            table.add_section()
        table.add_row(*(Text(column.cell(row), style=style(row)) for column in columns))
    return table


def markdown_table(columns: Sequence[Column[R]], rows: Sequence[R]) -> list[str]:
    """The lines of the table in GitHub Markdown."""
    lines = [
        [column.header for column in columns],
        *([column.cell(row) for column in columns] for row in rows),
    ]
    head, *body = ["| " + " | ".join(map(_in_cell, line)) + " |" for line in lines]
    return [head, "|" + "---|" * len(columns), *body]


def _in_cell(text: str) -> str:
    """Text that ends neither the cell nor the line."""
    return " ".join(text.replace("|", r"\|").split())
