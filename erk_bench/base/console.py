"""The console that tables are printed to."""

from __future__ import annotations

from rich.console import Console


def wide_console() -> Console:
    """A console as wide as its terminal; wide enough for a table where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=170)
