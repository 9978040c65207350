"""The console that tables are printed to."""

from __future__ import annotations

from rich.console import Console


def on_terminal(console: Console) -> bool:
    """Whether lines can be overwritten. Of a notebook, where FORCE_COLOR is set, rich believes it."""
    return console.is_terminal and console.file.isatty()


def wide_console() -> Console:
    """A console as wide as its terminal; wide enough for a table where there is none."""
    console = Console()
    return console if on_terminal(console) else Console(width=170)
