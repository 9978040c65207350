"""Whether locks reach other machines: some cluster file systems keep them on each node for itself."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from erk_bench.base.processes import machine

BEAT_S = 10.0  # between two signs of life of a process
TOLD_S = 3600.0  # what was told so long ago is told again


class LockProbe:
    """Each process of a launch locks a file, and changes its time now and then: a sign of life.

    A file of another machine that shows signs of life, and yet is not locked as this machine sees it, tells
    that locks do not reach here.
    """

    def __init__(self, own: Path, is_held: Callable[[Path], bool]) -> None:
        """own: this process's locked file, beside those of the others. is_held: whether one is locked."""
        self._own, self._is_held = own, is_held
        self._seen: dict[str, float] = {}
        self._beaten = self._looked = time.monotonic()
        self._local = False
        self._look()

    def beat(self) -> None:
        """A sign of life, where the last one is a while ago."""
        if time.monotonic() - self._beaten >= BEAT_S:
            self._beaten = time.monotonic()
            with suppress(OSError):
                os.utime(self._own)

    def locks_are_local(self) -> bool:
        """Whether it is known by now that other machines do not see our locks. Looks once a while."""
        if not self._local and time.monotonic() - self._looked >= BEAT_S:
            self._look()
        return self._local

    def _look(self) -> None:
        self._looked = time.monotonic()
        with suppress(OSError), os.scandir(self._own.parent) as entries:
            for entry in entries:
                if not of_another_machine(entry.name):
                    continue
                with suppress(OSError):
                    now, before = entry.stat().st_mtime, self._seen.get(entry.name)
                    self._seen[entry.name] = now
                    if before is not None and now > before and not self._is_held(Path(entry.path)):
                        self._local = True


def of_another_machine(name: str) -> bool:
    """Whether a file of `LockProbe` is of a process on another machine."""
    words = re.fullmatch(r"launch-([0-9a-f]{8})-[0-9]+-[0-9]+-[0-9]+", name)
    return words is not None and words[1] != machine()


def tell_once(folder: Path, name: str, line: str) -> None:
    """Print a line to stderr, once for all processes that work in a folder, and again after TOLD_S."""
    mark = folder / f"told-{name}"
    with suppress(OSError):
        if time.time() - mark.stat().st_mtime > TOLD_S:
            mark.unlink()
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    except OSError:
        pass  # better twice than never
    print(line, file=sys.stderr)
