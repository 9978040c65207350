"""Which process works on which runs, so that a second one that would do the same work is refused."""

from __future__ import annotations

import fcntl
import functools
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from erk_bench.base.errors import BusyError
from erk_bench.base.files import open_atomic, writing
from erk_bench.base.processes import has_ended, identity
from erk_bench.runs.blocks import Worker
from erk_bench.runs.lock_probe import LockProbe, of_another_machine, tell_once
from erk_bench.runs.store import RunStore, names_in

LOCKS = ".locks"  # in the folder of all runs
GRACE_S = 3.0  # a killed launch needs a moment to end its workers

_numbers = itertools.count()


@contextmanager
def working_on(stores: Sequence[RunStore], worker: Worker) -> Iterator[LockProbe]:
    """Held while a worker writes into stores of one folder; the same work by a second process is refused.

    Each run has a note of the worker, which names a file that this process has locked: one for all runs, as
    a process may have only so many files open. The operating system releases the lock when the process ends,
    however it ends. Other seeds of a run may be worked on meanwhile. Gives a probe of whether other machines
    see the lock. Raises BusyError.
    """
    with ExitStack() as stack:
        lock = stores[0].folder.parent / LOCKS / f"launch-{identity()}-{next(_numbers)}"
        with open_atomic(lock) as file:
            holder = stack.enter_context(os.fdopen(os.dup(file.fileno()), "rb"))
            _try_lock(holder.fileno(), fcntl.LOCK_EX, lock.parent)  # before others can see it
        stack.callback(lock.unlink, missing_ok=True)
        _remove_ended(lock.parent)
        deadline = time.monotonic() + GRACE_S
        for store in stores:
            _write_note(_note(store, worker), lock, store, deadline)
        for store in stores:  # after our own notes: of two that come at once, one at least sees the other
            _await_others(store, worker, lock, deadline)
        yield LockProbe(lock, _is_held)


def _note(store: RunStore, worker: Worker) -> Path:
    return store.folder / "locks" / store.seeds / f"{worker.rank}-of-{worker.world_size}"


def _write_note(note: Path, lock: Path, store: RunStore, deadline: float) -> None:
    """Name this process in a note, once nobody who is named there works any more."""
    while True:
        with writing(note), _open_note(note) as file:
            if _try_lock(file.fileno(), fcntl.LOCK_EX, lock.parent):
                file.seek(0)
                if (holder := _holder(file.read(), lock)) is None:
                    file.truncate(0)
                    file.write(f"process {os.getpid()} on {os.uname().nodename}\n{lock.name}\n")
                    return
            else:
                holder = "starting"
        _pause(note, holder, store, deadline)


def _open_note(note: Path) -> TextIO:
    """Mostly its folder is there already: another rank, or an earlier launch, has made it."""
    with suppress(FileNotFoundError):
        return note.open("a+", encoding="utf-8", errors="replace")
    note.parent.mkdir(parents=True, exist_ok=True)
    return note.open("a+", encoding="utf-8", errors="replace")


def _await_others(store: RunStore, worker: Worker, lock: Path, deadline: float) -> None:
    """Wait until no launch with another number of workers does this run."""
    folder = _note(store, worker).parent
    for name in sorted(names_in(folder)):
        if name.endswith(f"-of-{worker.world_size}"):
            continue  # a fellow worker of the same launch
        while (holder := _holder(_text(folder / name), lock)) is not None:
            _pause(folder / name, holder, store, deadline)


def _pause(note: Path, holder: str, store: RunStore, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise BusyError(
            f"another process works on '{store.folder}' already (worker {note.name}: {holder}); wait for it "
            "to end, or stop it, then run again"
        )
    time.sleep(0.1)


def _text(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _holder(note: str, lock: Path) -> str | None:
    """Who wrote a note of these words, if it is another process that still works."""
    try:
        who, name = note.splitlines()[:2]
    except ValueError:
        return None
    return who if name != lock.name and _is_held(lock.with_name(name)) else None


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            return not _try_lock(file.fileno(), fcntl.LOCK_SH, lock.parent)
    except OSError:
        return False


def _remove_ended(folder: Path) -> None:
    """Remove the files of processes of this machine that were killed, and of others long gone.

    A lock of another machine may be one that this machine does not see.
    """
    for lock in folder.glob("launch-*"):
        with suppress(OSError):
            if of_another_machine(lock.name):
                who = lock.name.removeprefix("launch-").rpartition("-")[0]
                if has_ended(who, lock.stat().st_mtime):
                    lock.unlink()
            elif not _is_held(lock):
                lock.unlink()


def _try_lock(descriptor: int, kind: int, folder: Path) -> bool:
    """Whether the lock was there to be had. folder: where it is told that there are no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks; files stay whole and equal all the same
        _warn(error.strerror, folder)
    return True


@functools.cache
def _warn(reason: str, folder: Path) -> None:
    line = f"warning: no locks here ({reason}); start only one launch"
    tell_once(folder, "no-locks", line)
