"""What commands tell a tracker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from erk_bench.cli import main
from erk_bench.commands import tracking
from erk_bench.commands.compose import run_spec
from erk_bench.reporting.grid_views import GridView
from erk_bench.reporting.trackers import values as tracked
from erk_bench.reporting.trackers.tracker import Curve, Launch, Tracker, TrackerSpec
from erk_bench.runs import launch
from erk_bench.runs.blocks import Block
from erk_bench.runs.records import Record
from erk_bench.spec import RunSpec

RUN = ["track=digits", "seeds=0-39", "block_size=8", "workers=1", "device=cpu", "schedule.num_steps=3",
       "metrics.num_groups=5", "metrics.names=[fd_digits,recall_digits]"]  # fmt: skip
GRID = [*RUN, "correction.w_stiff=0.5,1", "correction.w_con=0"]


class Notes(Tracker):
    """A tracker that keeps what it is told."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.expected = self.images = 0
        self.records: list[tuple[Record, Path | None]] = []
        self.drawn: list[str] = []
        self.sheets: list[list[str]] = []
        self.found: list[Curve] = []

    def expect(self, images: int) -> None:
        self.expected += images

    def advance(self, spec: RunSpec, images: int) -> None:
        self.images += images

    def record(
        self, record: Record, folder: Path | None = None, facts: Mapping[str, float | str] | None = None
    ) -> None:
        self.records.append((record, folder))

    def samples(self, sheet: Mapping[str, np.ndarray], seeds: Sequence[int]) -> None:
        assert all(len(images) == len(seeds) for images in sheet.values())
        self.sheets.append(list(sheet))

    def cells(self, view: GridView) -> None:
        columns, rows = tracked.cell_numbers(view)
        self.cells_told = [dict(zip(columns, row, strict=True)) for row in rows]

    def curves(self, name: str, curves: Sequence[Curve]) -> None:
        self.found += curves

    def picture(self, name: str, path: Path) -> None:
        assert path.is_file()
        self.drawn.append(name)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Notes]:
    """The trackers that commands open, with tracker=wandb and without wandb."""
    found: list[Notes] = []

    @contextmanager
    def open_notes(spec: TrackerSpec, launch: Launch) -> Iterator[Tracker]:
        assert spec.name == "wandb"
        found.append(Notes(launch))
        yield found[-1]

    monkeypatch.setattr(tracking, "open_tracker", open_notes)
    return found


@pytest.mark.slow
def test_a_grid_tells_its_best_cell_and_baseline(tmp_path: Path, opened: list[Notes]) -> None:
    words = ["grid", *GRID, f"out={tmp_path / 'runs'}", "tracker=wandb"]
    assert main(words) == 0
    (notes,) = opened
    assert (notes.launch.kind, notes.launch.name) == ("grid", "digits")
    assert notes.expected == notes.images == 3 * 40
    plain, best = notes.records
    assert plain[0].run_spec.correction.w_stiff == 0 < best[0].run_spec.correction.w_stiff
    assert all(folder == tmp_path / "runs" / record.run_id for record, folder in notes.records)
    assert notes.sheets == [["3 steps plain", "3 steps best"]]
    first, second = notes.cells_told
    assert (first["schedule.num_steps"], first["correction.w_stiff"], second["correction.w_stiff"]) == (
        3,
        0.5,
        1,
    )
    assert {first["fd_digits"], second["fd_digits"]} >= {best[0].metrics["fd_digits"].value}
    assert first["run_id"] != second["run_id"] and first["fd_digits_baseline"] == second["fd_digits_baseline"]
    assert notes.drawn == ["digits-curves", "digits-heat", "digits-parallel"]
    assert [(curve.label, curve.facts) for curve in notes.found] == [
        ("w_stiff 0.5", {"steps": "3", "w_stiff": "0.5"}),
        ("w_stiff 1", {"steps": "3", "w_stiff": "1"}),
    ]
    assert main(words) == 0
    assert opened[1].expected == opened[1].images == 0  # all is there
    assert len(opened[1].records) == 2


def test_a_task_is_grouped_with_its_sweep(
    tmp_path: Path, opened: list[Notes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tracking.SWEEP, "")  # so that it is put back
    monkeypatch.delenv(tracking.SWEEP)
    manifest = str(tmp_path / "a.manifest")
    words = [
        "plan",
        "--manifest",
        manifest,
        "grid=digits",
        *GRID,
        f"out={tmp_path / 'runs'}",
        "tracker=wandb",
    ]
    assert main(words) == 0
    assert main(["task", manifest, "0"]) == 0
    assert [notes.launch.name for notes in opened] == ["digits"]
    assert opened[0].images == 3 * 40


def test_commands_without_a_record_do_not_track(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("generate", "evaluate"):
        assert main([command, *RUN, f"out={tmp_path / 'runs'}", "tracker=wandb"]) == 2
        assert "do not track; leave out tracker=" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_only_rank_zero_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tracking, "open_tracker", _expect_none)
    assert main(["run", *RUN, f"out={tmp_path / 'runs'}", "tracker=wandb"]) == 0


@contextmanager
def _expect_none(spec: TrackerSpec, launch: Launch) -> Iterator[Tracker]:
    assert spec.name == "none"
    yield Tracker()


def test_workers_share_blocks_or_trees() -> None:
    specs = [run_spec([*RUN, "correction=erk_guid", f"correction.w_stiff={w}"]) for w in (0.5, 1.0, 1.5)]
    left = {spec.run_id: [Block(0, 8), Block(1, 8)] for spec in specs}
    assert launch._num_units([specs], left, shared=False) == 6
    assert launch._num_units([specs], left, shared=True) == 2
    assert launch._num_units([specs[:1], specs[1:]], left, shared=True) == 4
