"""Writes finished blocks in threads, beside whatever computes the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from erk_bench.base.stopping import Stopped

WRITERS = 4  # threads that encode and write
PENDING = 8  # blocks that may wait for them; more would only take memory


class BlockWriter:
    """Runs `write` functions in threads, a bounded number ahead; `done` is called here after each.

    Leaving the `with` block waits for all of them and raises what failed; after an error of the caller's own
    (but for Stopped), what was submitted is still written, and errors of that are not told.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(WRITERS, "writer")
        self._pending: deque[tuple[Future[None], Callable[[], None]]] = deque()

    def __enter__(self) -> BlockWriter:
        return self

    def submit(self, write: Callable[[], None], done: Callable[[], None]) -> None:
        """Queue one block; waits while PENDING others wait. Raises what an earlier one failed with."""
        self._pending.append((self._pool.submit(write), done))
        while self._pending and (len(self._pending) > PENDING or self._pending[0][0].done()):
            self._collect()

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            while self._pending and kind in (None, Stopped):
                self._collect()
        finally:
            self._pool.shutdown()

    def _collect(self) -> None:
        future, done = self._pending.popleft()
        future.result()
        done()
