"""Runs are scored as soon as they are complete, on the processor, while GPUs sample the next ones."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch

from erk_bench.runs import launch
from erk_bench.runs.blocks import Worker
from erk_bench.runs.device import Place, assets_of
from erk_bench.runs.generate import unfinished
from erk_bench.runs.records import Record
from erk_bench.runs.score import score
from erk_bench.spec import Spec

LOOK_S = 20.0  # a run that is not complete is looked at again after so long


class ScoreAhead:
    """Scores complete runs in one thread; `look` is called while others are still computed.

    On GPUs only: there the processor has nothing else to do. Where processors sample, scoring would take
    their time, and move the times that are measured. enabled: None decides by that.
    """

    def __init__(self, specs: Sequence[Spec], *, enabled: bool | None = None) -> None:
        self._waiting = list(specs)
        self._begun: dict[str, Future[Record]] = {}
        self._looked = time.monotonic()
        on_gpu = specs[0].device != "cpu" and torch.cuda.is_available()
        self._enabled = (on_gpu if enabled is None else enabled) and launch.reports()
        self._pool = ThreadPoolExecutor(1, "score")
        if self._enabled and on_gpu:
            torch.set_num_threads(spare_threads())  # a launcher allows a process one

    def __enter__(self) -> ScoreAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def watching(self, watch: Callable[[Spec, int], None]) -> Callable[[Spec, int], None]:
        """`watch`, which is called after each block, and a look at the runs now and then."""

        def watched(spec: Spec, count: int) -> None:
            watch(spec, count)
            if self._enabled and time.monotonic() - self._looked >= LOOK_S:
                self.look()

        return watched

    def look(self) -> None:
        """Begin to score the runs that are complete by now, in their order, as far as they go."""
        self._looked = time.monotonic()
        while self._waiting and not unfinished(self._waiting[0], features=True):
            spec = self._waiting.pop(0)
            self._begun[spec.run_id] = self._pool.submit(score, spec, scoring_place(spec), complete=True)

    def record(self, spec: Spec) -> Record | None:
        """The record of a run that was begun, when it is done; None of any other."""
        begun = self._begun.get(spec.run_id)
        return None if begun is None else begun.result()


def scoring_place(spec: Spec) -> Place:
    """Where a process scores. One that only watches local workers opens no context on their first GPU."""
    if Worker.from_environment() is None and launch.default_workers(spec) > 1:
        return Place(assets_of(spec), torch.device("cpu"), Worker())
    return Place.of(spec)


def spare_threads() -> int:
    """Threads of the processor that each process of a launch may use on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
