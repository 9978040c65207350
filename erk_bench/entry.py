"""The first steps of the command, before the imports that take seconds."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from erk_bench.base import processes, stopping, terminal

NO_HOME = "/nonexistent"


@functools.cache
def prepare() -> None:
    """Make this process a command: its output, its signals, and its end with the launcher."""
    stopping.end_at_once()
    processes.end_with_launcher()
    terminal.prepare()
    try:
        Path.home()
    except RuntimeError:  # a user without a name: files of the cache are missed only where they are needed
        os.environ["HOME"] = NO_HOME


def run() -> None:
    """Console script."""
    prepare()
    from erk_bench.cli import entry

    entry()
