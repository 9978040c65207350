"""What every tracker offers, and the names under which values are logged. The tracker here does nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.reporting.table_views import Estimate, TableView
from erk_bench.runs.records import Record
from erk_bench.spec import Spec

MODES = ("auto", "online", "offline")

# What is logged under which name; the dashboard is built from the same names.
LAUNCH, RESULT, CURVE = "launch", "result", "curve"  # job types
IMAGES = "progress/images"
FRACTION = "progress/fraction"
IMAGES_PER_S = "progress/images_per_second"
SECONDS = "progress/seconds"  # what the progress is drawn against
SAMPLES = "samples"
SECONDS_PER_1000 = "seconds_per_1000"
LABEL = "label"  # config of a curve's run: what the curve is of


def error_key(metric: str) -> str:
    """The name of a metric's standard error."""
    return f"{metric}_se"


def table_key(name: str) -> str:
    """The name of a table."""
    return f"table/{name}"


def figure_key(name: str) -> str:
    """The name of a figure."""
    return f"figure/{name}"


@dataclass(frozen=True, kw_only=True)
class TrackerSpec:
    """Where to track (a key of TRACKERS), under which project and entity, and how.

    project, entity: None takes the service's own setting. mode: "auto" is online where a key is set.
    folder: of the local files, which lie in its subfolder of the tracker's name. tags: put on every run.
    project, entity, mode and tags are of W&B.
    """

    name: str = "none"
    project: str | None = None
    entity: str | None = None
    mode: str = "auto"
    folder: str = "results"
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_name("tracker.mode", self.mode, MODES)
        if not self.folder:
            raise UserError("tracker.folder is empty; name a folder, for example tracker.folder=results")
        for tag in self.tags:
            if not 1 <= len(tag) <= 64:
                raise UserError(f"tracker.tags has '{tag}'; a tag has 1 to 64 characters")


class Launch(NamedTuple):
    """What a command set out to do.

    kind: the command. name: of its table or grid, or the run_id. specs: every run, weights known.
    todo: images that this process will report through `advance`; None for all of the specs.
    """

    kind: str
    name: str
    specs: Sequence[Spec]
    todo: int | None = None

    @property
    def num_images(self) -> int:
        """Images that this process will report."""
        return sum(len(spec.seed_range) for spec in self.specs) if self.todo is None else self.todo


class CurvePoint(NamedTuple):
    """One point: its place on the x axis, and each metric with its standard error."""

    x: float
    metrics: Mapping[str, Estimate]


class Curve(NamedTuple):
    """Metrics against a setting. label: 'w_stiff 0.5'; facts: what it shares or not with other curves, such
    as {"steps": 8, "w_stiff": 0.5}; x: name of the setting, such as 'w_con'."""

    label: str
    facts: Mapping[str, Any]
    x: str
    points: Sequence[CurvePoint]


class Tracker:
    """The disabled tracker, and what every tracker offers. None of it waits for a service, or fails."""

    def expect(self, images: int) -> None:
        """So many more images will be reported through `advance`."""

    def advance(self, spec: Spec, images: int) -> None:
        """A block of `images` images of `spec` is finished."""

    def record(
        self, record: Record, folder: Path | None = None, facts: Mapping[str, float | str] | None = None
    ) -> None:
        """A result. folder: of its run's files (RunStore.folder_of), where they are at hand. facts: other
        single values, such as its difference from a baseline."""

    def samples(self, sheet: Mapping[str, np.ndarray], seeds: Sequence[int]) -> None:
        """Images of the same seeds by method: label -> uint8 [N, H, W, C]."""

    def table(self, view: TableView) -> None:
        """The table, values and errors as numbers."""

    def cells(self, text: str) -> None:
        """Every cell of a grid or search as CSV, values and errors as numbers."""

    def summary(self, facts: Mapping[str, float | str]) -> None:
        """What came out of the launch, in single values."""

    def curves(self, name: str, curves: Sequence[Curve]) -> None:
        """The curves of the figure `name`."""

    def picture(self, name: str, path: Path) -> None:
        """A figure, as a PNG file."""

    def close(self, failed: bool = False, hurry: bool = False) -> None:
        """Finish, in bounded time. failed: the command did not end well. hurry: without a last upload."""
