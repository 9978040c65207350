"""Weights & Biases: one W&B run a launch, a result and a curve, all drawn from records and never read back.

All calls into wandb are jobs of a Courier. Only the launch's run is live; the others are short, so they are
written offline and uploaded once complete. The first failure of the service is told once, and from that job
on everything stays offline, where nothing depends on a service; a failure offline ends tracking.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import wandb
from PIL import Image

from erk_bench.reporting.table_views import TableView
from erk_bench.reporting.trackers import lineage
from erk_bench.reporting.trackers import values as tracked
from erk_bench.reporting.trackers.courier import Call, Courier
from erk_bench.reporting.trackers.progress import Progress
from erk_bench.reporting.trackers.tracker import (
    CURVE,
    LABEL,
    LAUNCH,
    RESULT,
    SAMPLES,
    SECONDS,
    Curve,
    Launch,
    Tracker,
    TrackerSpec,
    error_key,
    figure_key,
    table_key,
)
from erk_bench.reporting.trackers.wandb.runs import (
    Home,
    Page,
    Patience,
    fill_run,
    find_mode,
    how_to_sync,
    open_run,
    tell,
    upload,
    use_artifact,
    wandb_artifact,
)
from erk_bench.runs.records import Record
from erk_bench.spec import Spec

PROGRESS_EVERY_S = 5.0
UPLOAD_EVERY_S = 60.0
FOLDERS = {"WANDB_DATA_DIR": "data", "WANDB_CACHE_DIR": "cache"}


def _restart() -> str:
    """Which start of a job this is, where Slurm requeues it."""
    return os.environ.get("SLURM_RESTART_COUNT", "")


def make_tracker(spec: TrackerSpec, launch: Launch) -> Tracker:
    """The tracker of a launch, online or not; the disabled one where WANDB_MODE says so."""
    mode = find_mode(spec)
    return Tracker() if mode == "disabled" else WandbTracker(spec, launch, mode)


class WandbTracker(Tracker):
    """Draws launches, results and curves in W&B. mode: online or offline."""

    def __init__(
        self, spec: TrackerSpec, launch: Launch, mode: str, patience: Patience | None = None
    ) -> None:
        self._spec = spec
        self._launch = launch
        self._mode = mode
        self._first_mode = mode
        patience = patience or Patience()
        tags = frozenset(tracked.launch_tags(launch) | set(spec.tags))
        self._home = Home(spec, launch.name, tags, patience)
        # wandb keeps small files here until they are uploaded, and its logs, by default in the home folder.
        self._own_folders = [name for name in FOLDERS if name not in os.environ]
        for name in self._own_folders:
            os.environ[name] = str(Path(spec.folder, "wandb", FOLDERS[name]).resolve())
        self._opened: wandb.Run | None = None  # the launch's run
        self._left: wandb.Run | None = None  # and the one before, when the service failed
        self._pending: list[Path] = []  # folders of finished runs
        self._uploaded = time.monotonic()
        self._told: set[tuple[str, str]] = set()  # artifacts of the launch's run
        self._progress = Progress(launch.num_images, PROGRESS_EVERY_S)
        self._courier = Courier(self._failed, patience.job)
        self._on_launch(lambda run: None)  # shows the launch before its first block is done

    def expect(self, images: int) -> None:
        self._progress.expect(images)

    def advance(self, spec: Spec, images: int) -> None:
        self._log_progress(self._progress.advance(images))

    def record(
        self, record: Record, folder: Path | None = None, facts: Mapping[str, float | str] | None = None
    ) -> None:
        self._courier.submit(lambda: self._result(record, folder, facts or {}))
        self._courier.submit(self._upload_some)

    def samples(self, sheet: Mapping[str, np.ndarray], seeds: Sequence[int]) -> None:
        note = f"seeds {', '.join(map(str, seeds))}"
        count = max((len(images) for images in sheet.values()), default=0)
        strips = {f"{label}: {note}": _png(tracked.strip(images, count)) for label, images in sheet.items()}
        self._on_launch(
            lambda run: run.log(
                {SAMPLES: [wandb.Image(image, caption=text) for text, image in strips.items()]}
            )
        )

    def table(self, view: TableView) -> None:
        self._log_table(*tracked.numbers(view))

    def cells(self, text: str) -> None:
        self._log_table(*tracked.cell_numbers(text))

    def summary(self, facts: Mapping[str, float | str]) -> None:
        self._on_launch(lambda run: run.summary.update({**facts}))

    def _log_table(self, columns: list[str], rows: list[list[str | float | None]]) -> None:
        key = table_key(self._launch.name)
        self._on_launch(lambda run: run.log({key: wandb.Table(columns=[*columns], data=rows)}))

    def curves(self, name: str, curves: Sequence[Curve]) -> None:
        for curve in curves:
            self._courier.submit(self._curve_job(name, curve))
        self._courier.submit(self._upload_some)

    def picture(self, name: str, path: Path) -> None:
        if path.suffix != ".png":
            raise ValueError(f"'{path}' is no .png file")
        with Image.open(path) as file:
            picture = file.copy()  # the file may be drawn anew meanwhile
        self._on_launch(lambda run: run.log({figure_key(name): wandb.Image(picture)}))

    def close(self, failed: bool = False, hurry: bool = False) -> None:
        self._log_progress(self._progress.rest())
        if not hurry:
            self._courier.submit(self._upload)
        self._courier.submit(lambda: self._end_launch(int(failed)))
        if not self._courier.close():
            tell(f"not everything was uploaded in time; {how_to_sync(self._spec)}")
        for name in self._own_folders:
            os.environ.pop(name, None)

    def _failed(self, error: Exception) -> bool:
        """Whether to go on, offline; in the courier's thread."""
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        if self._mode == "offline":
            tell(f"tracking has ended ({reason}); the run itself goes on")
            return False
        tell(f"the service fails ({reason}); this launch goes on offline; {how_to_sync(self._spec)}")
        self._mode = "offline"
        self._left, self._opened = self._opened, None
        self._told.clear()
        return True

    def _log_progress(self, values: Mapping[str, float]) -> None:
        if values:
            self._on_launch(lambda run: run.log({**values}))

    def _on_launch(self, use: Callable[[wandb.Run], None]) -> None:
        """Use the launch's run, opened for its first use."""
        self._courier.submit(lambda: use(self._open_launch()))

    def _open_launch(self) -> wandb.Run:
        if self._opened is not None:
            return self._opened
        launch, name = self._launch, f"{self._launch.kind} {self._launch.name}"
        if self._mode != self._first_mode:  # apart from what was uploaded of it, which it must not replace
            name += ", continued offline"
        page = Page(
            LAUNCH,
            # Offline logs of one id would replace each other when they are uploaded.
            tracked.digest(name, *tracked.runs_of(launch), self._mode == "offline" and _restart()),
            name,
            tracked.launch_config(launch),
            set().union(*map(tracked.tags_of, launch.specs)),
        )
        self._opened = run = open_run(self._home, page, self._mode)
        run.define_metric(SECONDS)
        run.define_metric("progress/*", step_metric=SECONDS)
        return run

    def _end_launch(self, status: int) -> None:
        # Taken away first: were this job done again, an empty run would replace what was uploaded.
        run, self._opened = self._opened, None
        left, self._left = self._left, None
        if run is not None:
            run.finish(exit_code=status)
        if left is not None:
            with suppress(TimeoutError):  # its trouble is known
                left.finish(exit_code=status)

    def _result(self, record: Record, folder: Path | None, facts: Mapping[str, float | str]) -> None:
        spec = record.source
        own = [record.run_id, record.seeds, *filter(None, [spec.metrics.protocol])]
        checkpoints = lineage.checkpoints(record)
        made = lineage.blocks(record, folder) if folder is not None else []
        self._tell_made(checkpoints, made)
        inputs = [artifact for artifact in made if artifact.kind == "features"] or checkpoints

        def use(run: wandb.Run) -> None:
            run.log(tracked.result_values(record))
            run.summary.update({**facts})
            for artifact in [*inputs, *lineage.references(record)]:
                use_artifact(run, artifact)
            run.log_artifact(wandb_artifact(lineage.record_file(record)), aliases=["latest", record.seeds])

        page = Page(
            RESULT,
            tracked.digest(RESULT, *own),
            f"{record.name}, seeds {record.seeds}",
            tracked.result_config(record),
            tracked.tags_of(spec),
        )
        self._pending.append(fill_run(self._home, page, use))

    def _upload_some(self) -> None:
        if time.monotonic() - self._uploaded >= UPLOAD_EVERY_S:
            self._upload()

    def _upload(self) -> None:
        self._uploaded = time.monotonic()
        if self._mode == "online" and self._pending:
            upload(self._pending, self._home.patience.upload)
            self._pending = []

    def _tell_made(self, inputs: Sequence[lineage.Artifact], made: Sequence[lineage.Artifact]) -> None:
        """Samples and features come from the launch, which used the checkpoints; each is told once."""
        if not made:
            return
        run = self._open_launch()
        for artifact in (*inputs, *made):
            key = (artifact.name, artifact.text)
            if key in self._told:
                continue
            self._told.add(key)
            if artifact in made:
                run.log_artifact(wandb_artifact(artifact), aliases=["latest"])
            else:
                use_artifact(run, artifact)

    def _curve_job(self, name: str, curve: Curve) -> Call:
        facts = sorted(f"{key} {value}" for key, value in curve.facts.items())
        page = Page(
            CURVE,
            tracked.digest(CURVE, self._launch.name, name, curve.label, *facts),
            ", ".join([name, curve.label, *(fact for fact in facts if fact != curve.label)]),
            {LABEL: curve.label, "figure": name, "x": curve.x, **curve.facts},
            {name},
        )

        def use(run: wandb.Run) -> None:
            run.define_metric(curve.x)
            for metric in dict.fromkeys(metric for point in curve.points for metric in point.metrics):
                run.define_metric(metric, step_metric=curve.x)
                run.define_metric(error_key(metric), step_metric=curve.x)
            for point in sorted(curve.points, key=lambda point: point.x):
                run.log({curve.x: point.x, **tracked.with_errors(point.metrics)})

        return lambda: self._pending.append(fill_run(self._home, page, use))


def _png(pixels: np.ndarray) -> Image.Image:
    # wandb would stretch the values of a dark array itself.
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
