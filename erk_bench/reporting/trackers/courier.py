"""Jobs for a service that may be slow or dead, done in order by a thread of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Call = Callable[[], None]


class Courier:
    """Does the submitted jobs one by one; whoever submits never waits for them, nor sees them fail.

    failed: told of every failure, in the courier's thread; True tries the job again, False ends all service.
    patience: seconds that `close` waits for any one job to end.
    """

    def __init__(self, failed: Callable[[Exception], bool], patience: float) -> None:
        self._failed = failed
        self._patience = patience
        self._jobs: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._num_done = 0
        self._serving = True
        # A daemon: a job that never ends must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def submit(self, job: Call) -> None:
        """Have `job` done after those before it; forgotten once service has ended."""
        if self._serving:
            self._jobs.put(job)

    def close(self) -> bool:
        """Wait for the jobs while they go on; False where one took longer than the patience."""
        self._jobs.put(None)
        while self._thread.is_alive():
            before = self._num_done
            self._thread.join(self._patience)
            if self._thread.is_alive() and self._num_done == before:
                self._serving = False
                return False
        return True

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            while self._serving and not self._try(job):
                pass
            self._num_done += 1

    def _try(self, job: Call) -> bool:
        """Whether the job is done with, well or not."""
        try:
            job()
        except Exception as error:
            # The one place where any failure is survived: a dashboard is a view, and W&B raises its own
            # errors, those of HTTP, sockets, protobuf and pydantic. None is worth losing hours of sampling.
            self._serving = self._failed(error)
            return not self._serving
        return True
