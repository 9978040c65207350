"""A launch tracked by TensorBoard, read back from its event files."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec, tracker_spec
from erk_bench.reporting.trackers import open_tracker
from erk_bench.reporting.trackers.tracker import FRACTION, IMAGES, Curve, CurvePoint, Launch, TrackerSpec
from erk_bench.runs.records import Record
from erk_bench.spec import RunSpec
from tests.reporting.test_table_views import make_view
from tests.studies.test_table import record_of

CURVES = [
    Curve("w_stiff 0.5", {"steps": 8, "w_stiff": 0.5}, "w_con",
          [CurvePoint(0.5, {"fd_digits": (2.5, 0.25)}), CurvePoint(0.1, {"fd_digits": (1.5, 0.125)})])
]  # fmt: skip
FACTS: dict[str, float | str] = {"difference": -0.5, "difference_se": 0.25, "verdict": "not resolved"}


class Tracked(NamedTuple):
    """A launch that was tracked: its record, and its folder of event files."""

    record: Record
    folder: Path

    def events(self, part: str = "") -> EventAccumulator:
        """What TensorBoard reads of the launch, or of a folder in it."""
        found = EventAccumulator(str(self.folder / part), size_guidance={"images": 0})
        found.Reload()
        return found

    def text(self, name: str) -> str:
        (event,) = self.events().Tensors(f"{name}/text_summary")
        text: bytes = event.tensor_proto.string_val[0]
        return text.decode()


def track(spec: RunSpec, folder: Path, images: int = 40) -> Tracked:
    record = record_of(spec)
    settings = TrackerSpec(name="tensorboard", folder=str(folder))
    with open_tracker(settings, Launch("table", "small", [spec])) as tracker:
        tracker.advance(spec, images)
        tracker.record(record, None, FACTS)
        tracker.table(make_view())
        tracker.summary({"winner": "b", "winner/difference": -0.5})
        tracker.samples({"Heun": np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)}, [3, 4])
        tracker.curves("figure4", CURVES)
        Image.fromarray(np.full((4, 6, 3), 77, np.uint8)).save(folder / "steps.png")
        tracker.picture("steps", folder / "steps.png")
    (launch,) = (folder / "tensorboard").iterdir()
    return Tracked(record, launch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    spec = run_spec(["seeds=0-39", "solver=deis", "solver.max_order=2"])
    return track(spec, tmp_path_factory.mktemp("tensorboard"))


def test_progress_is_drawn_against_images(made: Tracked) -> None:
    events = made.events()
    assert [(event.step, event.value) for event in events.Scalars(IMAGES)] == [(40, 40.0)]
    assert events.Scalars(FRACTION)[0].value == 1.0


def test_result_has_settings_and_metrics_in_a_folder_of_its_own(made: Tracked) -> None:
    record = made.record
    events = made.events(f"result {record.run_id} 0-39")
    for name, measured in record.metrics.items():
        assert events.Scalars(name)[0].value == pytest.approx(measured.value)
        assert events.Scalars(f"{name}_se")[0].value == pytest.approx(measured.standard_error)
    assert events.Scalars("difference")[0].value == -0.5
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    settings = HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["solver.name"].string_value == "deis"
    assert settings["solver.max_order"].number_value == 2
    assert settings["schedule.num_steps"].number_value == record.run_spec.schedule.num_steps
    assert settings["verdict"].string_value == "not resolved"


def test_table_and_summary_are_text(made: Tracked) -> None:
    assert all(row.method in made.text("table/small") for row in make_view().rows)
    assert "- winner: b" in made.text("summary") and "- winner/difference: -0.5" in made.text("summary")
    assert made.events().Scalars("summary/winner/difference")[0].value == -0.5
    assert f"{made.record.run_id} 0-39" in made.text("settings")


def test_cells_are_a_table_of_text(small_run: Callable[..., RunSpec], tmp_path: Path) -> None:
    spec = TrackerSpec(name="tensorboard", folder=str(tmp_path))
    with open_tracker(spec, Launch("grid", "small", [small_run()])) as tracker:
        tracker.cells("solver,fd_digits,verdict\nheun,1.5,\na|b,,better\n")
    (launch,) = (tmp_path / "tensorboard").iterdir()
    text = Tracked(record_of(small_run()), launch).text("table/small")
    assert text.splitlines()[2:] == ["| heun | 1.5 |  |", r"| a\|b |  | better |"]


def test_curves_have_the_setting_as_their_step(made: Tracked) -> None:
    events = made.events("curve, figure4, w_stiff 0.5, steps 8")
    shown = events.Scalars("fd_digits against 1000 w_con")
    assert [(event.step, event.value) for event in shown] == [(100, 1.5), (500, 2.5)]


def test_samples_and_pictures_are_images(made: Tracked) -> None:
    (picture,) = made.events().Images("figure/steps")
    assert (np.asarray(Image.open(io.BytesIO(picture.encoded_image_string))) == 77).all()
    (strip,) = made.events().Images("samples/Heun")
    pixels = np.asarray(Image.open(io.BytesIO(strip.encoded_image_string)).convert("L"))
    assert (pixels[::8, ::8][:8, :8].ravel() == np.arange(64)).all()  # each pixel is 8 wide


def test_a_repeat_replaces(small_run: Callable[..., RunSpec], tmp_path: Path) -> None:
    track(small_run(), tmp_path, images=8)
    again = track(small_run(), tmp_path, images=40)
    assert [event.value for event in again.events().Scalars(IMAGES)] == [40.0]
    assert len(list(again.folder.glob("result */events*"))) == 1


def test_failure_is_told_once_and_ends_tracking_only(
    small_run: Callable[..., RunSpec], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    spec = TrackerSpec(name="tensorboard", folder=str(tmp_path / "file"))
    with open_tracker(spec, Launch("run", "x", [small_run()])) as tracker:
        tracker.advance(small_run(), 8)
        tracker.record(record_of(small_run()))
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("TensorBoard:")]
    assert len(told) == 1 and "tracking has ended" in told[0]


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with (
        pytest.raises(
            UserError, match=r"tracker 'tensorboard' needs tensorboard.*'erk-bench\[tensorboard\]'"
        ),
        open_tracker(TrackerSpec(name="tensorboard"), Launch("run", "x", [])),
    ):
        pass


def test_settings_of_wandb_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert tracker_spec(["tracker=tensorboard", "tracker.folder=there"]).folder == "there"
    assert main(["run", "tracker=tensorboard", "tracker.project=mine"]) == 2
    assert "tracker.project" in capsys.readouterr().err


def test_a_run_is_tracked(small_run: Callable[..., RunSpec], tmp_path: Path) -> None:
    words = ["schedule.num_steps=2", "seeds=0-19", "block_size=10", "workers=1", "device=cpu",
             f"out={tmp_path / 'runs'}", "metrics.num_groups=2", "metrics.names=[fd_digits]"]  # fmt: skip
    assert main(["run", *words, "tracker=tensorboard", f"tracker.folder={tmp_path}"]) == 0
    (launch,) = (tmp_path / "tensorboard").iterdir()
    events = Tracked(record_of(small_run()), launch).events(f"result {run_spec(words).run_id} 0-19")
    assert events.Scalars("nfe")[0].value == 3
