"""Trackers: views of launches and records for a dashboard, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.stopping import Stopped
from erk_bench.reporting.trackers.tracker import Launch, Tracker, TrackerSpec


def _wandb_tracker(spec: TrackerSpec, launch: Launch) -> Tracker:
    try:
        # Only here: most installations have no wandb, and importing it takes a second.
        from erk_bench.reporting.trackers.wandb.tracker import make_tracker
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "wandb":
            raise
        raise UserError(
            "tracker 'wandb' needs the wandb package, which is not installed; run: pip install "
            "'erk-bench[wandb]', or use tracker=none"
        ) from error
    return make_tracker(spec, launch)


TRACKERS: dict[str, Callable[[TrackerSpec, Launch], Tracker]] = {
    "none": lambda spec, launch: Tracker(),
    "wandb": _wandb_tracker,
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
