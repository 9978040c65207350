"""Where a command shows its progress and results: the tracker that the settings ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from erk_bench.base.errors import UserError
from erk_bench.commands.compose import tracker_spec
from erk_bench.reporting.trackers import open_tracker
from erk_bench.reporting.trackers.tracker import Launch, Tracker, TrackerSpec
from erk_bench.runs import launch
from erk_bench.spec import Spec

SWEEP = "ERK_BENCH_SWEEP"  # in the environment of a task: the name of the table or grid it belongs to


@contextmanager
def tracked(kind: str, name: str, specs: Sequence[Spec], overrides: Sequence[str]) -> Iterator[Tracker]:
    """The tracker that the settings ask for; a disabled one where this process shows nothing.

    A task of a sweep is grouped with the others, under the name of the sweep.
    """
    spec = tracker_spec(overrides) if launch.reports() else TrackerSpec()
    with open_tracker(spec, Launch(kind, os.environ.get(SWEEP, name), specs)) as tracker:
        yield tracker


def refuse_tracker(overrides: Sequence[str], who: str) -> None:
    """For a command that makes no record by itself, and so has nothing to track."""
    if tracker_spec(overrides).name != "none":
        raise UserError(f"{who} not track; leave out tracker=...")
