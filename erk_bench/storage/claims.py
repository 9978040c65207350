"""Which blocks of a run somebody computes right now, so that idle workers take over what nobody has begun."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from erk_bench.storage.blocks import Block

PROBE = 2**40  # a byte that is no block's


class Claims:
    """Byte i of a file is locked by the process that computes block i.

    The operating system gives the lock back when the process ends, however it ends; nothing is written. Over
    network file systems it works where POSIX locks do. usable: whether they work here; without them every
    claim succeeds, and nobody should take over another's blocks.
    """

    def __init__(self, path: Path) -> None:
        """path: of the file, in a folder that is there. Raises OSError where it cannot be opened."""
        # One descriptor for the whole time: closing any of a file's gives back all locks on it.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self.usable = True
        self.usable = self._lock(PROBE, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def take(self, block: Block) -> bool:
        """Whether the block is now this process's; False where another computes it."""
        return not self.usable or self._lock(block.index, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self, block: Block) -> None:
        """Its files are there."""
        if self.usable:
            self._lock(block.index, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._descriptor)

    def _lock(self, byte: int, kind: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, kind, 1, byte, os.SEEK_SET)
        except OSError:
            return False
        return True
