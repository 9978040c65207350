"""Stopping between two blocks when a scheduler warns (SIGUSR2) that the time is nearly over."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STATUS = 75  # exit status of a command that was asked to stop (EX_TEMPFAIL): start it again to go on

_asked = False
_workers: set[int] = set()


class Stopped(Exception):  # noqa: N818 - a request granted, not an error
    """Raised after the block at hand is written, where a signal asked for an end."""


def listen() -> None:
    """From now on SIGUSR2 asks this process to stop after the block that it is working on."""
    signal.signal(signal.SIGUSR2, _ask)


def _ask(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    for process in tuple(_workers):
        with suppress(ProcessLookupError):  # it has ended
            os.kill(process, signal.SIGUSR2)


@contextmanager
def passed_on_to(processes: Collection[int]) -> Iterator[None]:
    """Passes the signal on to worker processes meanwhile."""
    _workers.update(processes)
    try:
        if _asked:
            _ask(signal.SIGUSR2, None)
        yield
    finally:
        _workers.difference_update(processes)


def asked() -> bool:
    """Whether the signal has come."""
    return _asked


def check() -> None:
    """Raise Stopped if the signal has come."""
    if _asked:
        raise Stopped
