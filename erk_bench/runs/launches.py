"""Which process works on which runs, so that a second one that would do the same work is refused."""

from __future__ import annotations

import fcntl
import functools
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from erk_bench.base.errors import BusyError
from erk_bench.base.files import open_atomic, writing
from erk_bench.base.processes import identity
from erk_bench.runs.blocks import Worker
from erk_bench.runs.store import RunStore

LOCKS = ".locks"  # in the folder of all runs
GRACE_S = 3.0  # a killed launch needs a moment to end its workers

_numbers = itertools.count()


@contextmanager
def working_on(stores: Sequence[RunStore], worker: Worker) -> Iterator[None]:
    """Held while a worker writes into stores of one folder; the same work by a second process is refused.

    Each run has a note of the worker, which names a file that this process has locked: one for all runs, as
    a process may have only so many files open. The operating system releases the lock when the process ends,
    however it ends. Other seeds of a run may be worked on meanwhile. Raises BusyError.
    """
    with ExitStack() as stack:
        lock = stores[0].folder.parent / LOCKS / f"launch-{identity()}-{next(_numbers)}"
        with open_atomic(lock) as file:
            holder = stack.enter_context(os.fdopen(os.dup(file.fileno()), "rb"))
            _try_lock(holder.fileno(), fcntl.LOCK_EX)  # before others can see it
        stack.callback(lock.unlink, missing_ok=True)
        _remove_ended(lock.parent)
        deadline = time.monotonic() + GRACE_S
        for store in stores:
            _write_note(_note(store, worker), lock, store, deadline)
        for store in stores:  # after our own notes: of two that come at once, one at least sees the other
            _await_others(store, worker, lock, deadline)
        yield


def _note(store: RunStore, worker: Worker) -> Path:
    return store.folder / "locks" / store.seeds / f"{worker.rank}-of-{worker.world_size}"


def _write_note(note: Path, lock: Path, store: RunStore, deadline: float) -> None:
    """Name this process in a note, once nobody who is named there works any more."""
    with writing(note):
        note.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with writing(note), note.open("a+") as file:
            if _try_lock(file.fileno(), fcntl.LOCK_EX):
                if (holder := _holder(note, lock)) is None:
                    file.truncate(0)
                    file.write(f"process {os.getpid()} on {os.uname().nodename}\n{lock.name}\n")
                    return
            else:
                holder = "starting"
        _pause(note, holder, store, deadline)


def _await_others(store: RunStore, worker: Worker, lock: Path, deadline: float) -> None:
    """Wait until no launch with another number of workers does this run."""
    for note in sorted(_note(store, worker).parent.glob("*-of-*")):
        if note.name.endswith(f"-of-{worker.world_size}"):
            continue  # a fellow worker of the same launch
        while (holder := _holder(note, lock)) is not None:
            _pause(note, holder, store, deadline)


def _pause(note: Path, holder: str, store: RunStore, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise BusyError(
            f"another process works on '{store.folder}' already (worker {note.name}: {holder}); wait for it "
            "to end, or stop it, then run again"
        )
    time.sleep(0.1)


def _holder(note: Path, lock: Path) -> str | None:
    """Who wrote a note, if it is another process that still works."""
    try:
        who, name = note.read_text(encoding="utf-8").splitlines()[:2]
    except (OSError, ValueError):
        return None
    return who if name != lock.name and _is_held(lock.with_name(name)) else None


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            return not _try_lock(file.fileno(), fcntl.LOCK_SH)
    except OSError:
        return False


def _remove_ended(folder: Path) -> None:
    """Remove the files of processes that were killed."""
    for lock in folder.glob("launch-*"):
        if not _is_held(lock):
            with suppress(OSError):
                lock.unlink()


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks; files stay whole and equal all the same
        _warn(error.strerror)
    return True


@functools.cache
def _warn(reason: str) -> None:
    print(f"warning: no locks here ({reason}); start only one launch", file=sys.stderr)
