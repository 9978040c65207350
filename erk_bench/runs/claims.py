"""Which blocks somebody computes right now, so that idle workers take over what nobody has begun."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from erk_bench.base.files import writing
from erk_bench.runs.blocks import Block
from erk_bench.runs.lock_probe import tell_once

PROBE = 2**61  # a byte that is no block's
LOOK_S = 10.0  # between two looks at what others say


class Claims:
    """A byte of one file is locked by the process that computes a block of a run.

    One file serves all runs of a folder, however many there are: a process may have only so many open. The
    operating system gives a lock back when the process ends, however it ends; nothing is written. Over
    network file systems it works where POSIX locks do. usable: whether they work here; without them every
    claim succeeds: two processes may compute one block, which is waste, and never damage.
    """

    def __init__(self, path: Path) -> None:
        """path: of the file. Raises UserError where it cannot be opened."""
        self._folder, self._mark = path.parent, path.with_name("taken-over")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # One descriptor for the whole time: closing any of a file's gives back all locks on it.
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self.usable = True
        self.usable = self._lock(PROBE, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self._first, self._looked, self._changed = self._marked(), time.monotonic(), False

    def take(self, run_id: str, block: Block) -> bool:
        """Whether the block is now this process's; False where another computes it."""
        return not self.usable or self._lock(_byte(run_id, block), fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self, run_id: str, block: Block) -> None:
        """Its files are there."""
        if self.usable:
            self._lock(_byte(run_id, block), fcntl.LOCK_UN)

    def tell_others(self) -> None:
        """This process does blocks that others may count as theirs: they look at the disk from now on."""
        with suppress(OSError):
            self._mark.touch()

    def others_may_have_done(self) -> bool:
        """Whether another process has told so since this one began. Looks once a while."""
        if not self._changed and time.monotonic() - self._looked >= LOOK_S:
            self._looked, self._changed = time.monotonic(), self._marked() != self._first
        return self._changed

    def _marked(self) -> int:
        try:
            return self._mark.stat().st_mtime_ns
        except OSError:
            return 0

    def give_up(self) -> None:
        """Locks do not reach other machines: what this one sees says nothing. Told once."""
        if self.usable:
            self.usable = False
            tell_once(
                self._folder,
                "local-locks",
                "warning: file locks do not reach other machines here (Lustre localflock, NFS nolock); "
                "blocks may be computed twice at the end of a launch. Mount with flock to avoid that",
            )

    def close(self) -> None:
        os.close(self._descriptor)

    def _lock(self, byte: int, kind: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, kind, 1, byte, os.SEEK_SET)
        except OSError:
            return False
        return True


def _byte(run_id: str, block: Block) -> int:
    """The byte of a block. Two runs may have the same one, once in 2^28: one would wait for the other."""
    return int(hashlib.sha256(run_id.encode()).hexdigest()[:7], 16) << 32 | block.index
