"""Signals: SIGUSR2 asks a command to stop between two blocks; SIGINT and SIGTERM end it quietly at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STATUS = 75  # exit status of a command that was asked to stop (EX_TEMPFAIL): start it again to go on
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

MESSAGES = {
    INTERRUPTED: "interrupted; finished blocks are kept, run again to go on",
    TERMINATED: "terminated; finished blocks are kept, run again to go on",
    STATUS: "stopped as SIGUSR2 asked; finished blocks are kept, run the same command to go on",
}

_asked = False
_workers: set[int] = set()


class Stopped(Exception):  # noqa: N818 - a request granted, not an error
    """Raised after the block at hand is written, where a signal asked for an end."""


class Terminated(BaseException):
    """Raised where SIGTERM came, as KeyboardInterrupt is for SIGINT."""


def listen() -> None:
    """From now on SIGUSR2 asks this process to stop after the block that it is working on."""
    signal.signal(signal.SIGUSR2, _ask)
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, _terminate)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell has it for work in the background
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR2, signal.SIGINT))


def end_at_once() -> None:
    """Until `listen` is called, each of the signals ends this process: there is nothing yet to finish.

    An exception would be raised inside whatever is being imported, and come out as anything.
    """
    signals = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED, signal.SIGUSR2: STATUS}

    def end(number: int, frame: FrameType | None) -> None:
        status = signals[signal.Signals(number)]
        with suppress(OSError):
            os.write(2, f"erk-bench: {MESSAGES[status]}\n".encode())
        os._exit(status)

    for number in signals:
        if number == signal.SIGUSR2 or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


@contextmanager
def held_back() -> Iterator[None]:
    """SIGUSR2 and SIGINT wait meanwhile; processes that are started keep them waiting until they `listen`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR2, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


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
