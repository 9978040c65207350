"""The first steps of the command, before the imports that take seconds."""

from __future__ import annotations

import functools
import sys

from erk_bench import processes, stopping, terminal


@functools.cache
def prepare() -> None:
    """Make this process a command: its output, its signals, and its end with the launcher."""
    if sys.platform == "win32":
        raise SystemExit("erk-bench runs on Linux and macOS")
    stopping.end_at_once()
    processes.end_with_launcher()
    terminal.prepare()


def run() -> None:
    """Console script."""
    prepare()
    from erk_bench.cli import entry

    entry()
