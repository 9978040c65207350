"""Trackers: views of launches and records for a dashboard, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from erk_bench.base.errors import unknown_name
from erk_bench.base.extras import need
from erk_bench.base.stopping import Stopped
from erk_bench.reporting.trackers.tracker import Launch, Tracker, TrackerSpec


def _wandb_tracker(spec: TrackerSpec, launch: Launch) -> Tracker:
    need("wandb", "tracker 'wandb'", "use tracker=none")
    from erk_bench.reporting.trackers.wandb.tracker import make_tracker

    return make_tracker(spec, launch)


def _tensorboard_tracker(spec: TrackerSpec, launch: Launch) -> Tracker:
    need("tensorboard", "tracker 'tensorboard'", "use tracker=none")
    from erk_bench.reporting.trackers.tensorboard import TensorBoardTracker

    return TensorBoardTracker(spec, launch)


# The imports stand in the functions: most installations have not these packages, and importing takes seconds.
TRACKERS: dict[str, Callable[[TrackerSpec, Launch], Tracker]] = {
    "none": lambda spec, launch: Tracker(),
    "wandb": _wandb_tracker,
    "tensorboard": _tensorboard_tracker,
}


@contextmanager
def open_tracker(spec: TrackerSpec, launch: Launch) -> Iterator[Tracker]:
    """The tracker of a launch, closed when the block ends; only the process that reports opens one.

    Raises UserError, before any work, where the tracker is unknown or cannot be used as asked.
    """
    if spec.name not in TRACKERS:
        raise unknown_name("tracker", spec.name, TRACKERS)
    tracker = TRACKERS[spec.name](spec, launch)
    try:
        yield tracker
    except Stopped:  # a scheduler that wants its node back does not wait for uploads
        tracker.close(hurry=True)
        raise
    except BaseException:
        tracker.close(failed=True)
        raise
    tracker.close()
