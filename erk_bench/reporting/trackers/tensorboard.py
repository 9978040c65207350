"""TensorBoard: event files in a folder for each launch, and in folders below it for its results and curves.

All writing is jobs of a Courier; the first failure is told and ends tracking, never the run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from erk_bench.reporting.columns import Column, markdown_table
from erk_bench.reporting.site.packing import flat
from erk_bench.reporting.table_views import TableView, columns_of
from erk_bench.reporting.trackers import values as tracked
from erk_bench.reporting.trackers.courier import Courier
from erk_bench.reporting.trackers.progress import Progress
from erk_bench.reporting.trackers.tracker import (
    IMAGES,
    SAMPLES,
    Curve,
    Launch,
    Tracker,
    TrackerSpec,
    figure_key,
    table_key,
)
from erk_bench.runs.records import Record
from erk_bench.spec import Spec

PROGRESS_EVERY_S = 5.0
PATIENCE_S = 60.0  # for any one job at the end
STEPS = 1000  # of TensorBoard for 1 of a curve's setting, since its steps are whole numbers


class TensorBoardTracker(Tracker):
    """Writes launches, results and curves below FOLDER/tensorboard; a repeat replaces what was there."""

    def __init__(self, spec: TrackerSpec, launch: Launch) -> None:
        name = f"{launch.kind} {launch.name} {tracked.digest(*tracked.runs_of(launch))[:8]}"
        self._folder = Path(spec.folder, "tensorboard", name)
        self._launch = launch
        self._progress = Progress(launch.num_images, PROGRESS_EVERY_S)
        self._courier = Courier(_failed, PATIENCE_S)
        self._courier.submit(self._open)

    def expect(self, images: int) -> None:
        self._progress.expect(images)

    def advance(self, spec: Spec, images: int) -> None:
        self._show_progress(self._progress.advance(images))

    def record(
        self, record: Record, folder: Path | None = None, facts: Mapping[str, float | str] | None = None
    ) -> None:
        self._courier.submit(lambda: self._result(record, facts or {}))

    def samples(self, sheet: Mapping[str, np.ndarray], seeds: Sequence[int]) -> None:
        count = max((len(images) for images in sheet.values()), default=0)
        strips = {label: tracked.strip(images, count) for label, images in sheet.items()}

        def show() -> None:
            for label, strip in strips.items():
                self._writer.add_image(f"{SAMPLES}/{label}", strip, dataformats="HWC")

        self._courier.submit(show)

    def table(self, view: TableView) -> None:
        self._show_text(table_key(self._launch.name), markdown_table(columns_of(view), view.rows))

    def cells(self, text: str) -> None:
        header, rows = tracked.cell_numbers(text)
        columns = [Column(name, name, partial(_cell, place)) for place, name in enumerate(header)]
        self._show_text(table_key(self._launch.name), markdown_table(columns, rows))

    def summary(self, facts: Mapping[str, float | str]) -> None:
        self._show_text("summary", [f"- {name}: {_shown(value)}" for name, value in facts.items()])

        def show() -> None:
            for name, value in facts.items():
                if not isinstance(value, str):
                    self._writer.add_scalar(f"summary/{name}", value)

        self._courier.submit(show)

    def curves(self, name: str, curves: Sequence[Curve]) -> None:
        for curve in curves:
            self._courier.submit(partial(self._curve, name, curve))

    def picture(self, name: str, path: Path) -> None:
        with Image.open(path) as file:  # now: it may be drawn anew meanwhile
            pixels = np.asarray(file.convert("RGB"))
        self._courier.submit(lambda: self._writer.add_image(figure_key(name), pixels, dataformats="HWC"))

    def close(self, failed: bool = False, hurry: bool = False) -> None:
        self._show_progress(self._progress.rest())
        self._courier.submit(lambda: self._writer.close())
        if not self._courier.close():
            _tell("not everything was written in time")

    def _open(self) -> None:
        self._writer = _writer(self._folder)
        config = [f"    {name}: {value}" for name, value in flat(tracked.launch_config(self._launch)).items()]
        self._writer.add_text("settings", "\n".join(config))

    def _show_progress(self, values: Mapping[str, float]) -> None:
        def show() -> None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, int(values[IMAGES]))
            self._writer.flush()

        if values:
            self._courier.submit(show)

    def _show_text(self, name: str, lines: Sequence[str]) -> None:
        self._courier.submit(lambda: self._writer.add_text(name, "\n".join(lines)))

    def _result(self, record: Record, facts: Mapping[str, float | str]) -> None:
        config = {
            key: value if isinstance(value, (bool, int, float)) else str(value)
            for key, value in flat(tracked.result_config(record)).items()
        }
        texts = {key: value for key, value in facts.items() if isinstance(value, str)}
        numbers = {key: value for key, value in facts.items() if not isinstance(value, str)}
        folder = f"result {record.run_id} {record.seeds}"
        _clear(self._folder / folder)
        self._writer.add_hparams(
            {**config, **texts}, {**tracked.result_values(record), **numbers}, run_name=folder
        )

    def _curve(self, name: str, curve: Curve) -> None:
        facts = [text for key, value in curve.facts.items() if (text := f"{key} {value}") != curve.label]
        folder = self._folder / ", ".join(["curve", name, *filter(None, [curve.label]), *facts])
        with _writer(folder) as writer:
            for point in sorted(curve.points, key=lambda point: point.x):
                for metric, value in tracked.with_errors(point.metrics).items():
                    writer.add_scalar(f"{metric} against {STEPS} {curve.x}", value, round(STEPS * point.x))


def _writer(folder: Path) -> SummaryWriter:
    _clear(folder)
    return SummaryWriter(str(folder))


def _clear(folder: Path) -> None:
    """Remove what a launch before wrote, which TensorBoard would show as one with the new."""
    for file in folder.glob("events.out.tfevents.*"):
        file.unlink(missing_ok=True)


def _shown(value: str | float | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:g}"


def _cell(place: int, row: Sequence[str | float | None]) -> str:
    return _shown(row[place])


def _failed(error: Exception) -> bool:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    _tell(f"tracking has ended ({reason}); the run itself goes on")
    return False


def _tell(message: str) -> None:
    print(f"TensorBoard: {message}", file=sys.stderr, flush=True)
