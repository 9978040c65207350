"""What the tracker is asked for, and W&B runs read back from what they wrote offline."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from erk_bench.base.errors import UserError
from erk_bench.base.fields import build, to_dict
from erk_bench.commands.compose import run_spec
from erk_bench.reporting.trackers import open_tracker
from erk_bench.reporting.trackers import values as tracked
from erk_bench.reporting.trackers.tracker import (
    FRACTION,
    IMAGES,
    IMAGES_PER_S,
    SECONDS,
    Curve,
    CurvePoint,
    Launch,
    Tracker,
    TrackerSpec,
)
from erk_bench.runs.blocks import Worker
from erk_bench.runs.generate import generate
from erk_bench.runs.records import Record, write_record
from erk_bench.runs.score import score
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec
from tests.reporting.test_table_views import make_view
from tests.studies.test_table import record_of
from tests.wandb_log import LoggedRun, read_runs

pytest.importorskip("wandb")


class Tracked(NamedTuple):
    """A launch of two runs, tracked offline: what went in, and the W&B runs that came out."""

    folder: Path
    specs: list[RunSpec]
    records: list[Record]
    sheet: dict[str, np.ndarray]
    runs: dict[str, list[LoggedRun]]
    user_run: LoggedRun


CURVES = [
    Curve(
        f"w_stiff {w_stiff}",
        {"steps": 8, "w_stiff": w_stiff},
        "w_con",
        [
            CurvePoint(0.5, {"fd_digits": (2.5 * w_stiff, 0.25)}),
            CurvePoint(0.1, {"fd_digits": (1.5 * w_stiff, 0.125), "fid": (7.0, 1.0)}),
        ],
    )
    for w_stiff in (0.5, 1.0)
]


FACTS: dict[str, float | str] = {"difference": -0.5, "difference_se": 0.25, "verdict": "not resolved"}
CELLS = "solver,w_con,fd_digits,verdict\nheun,0.1,1.5,\ndeis,0.5,,better\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    import wandb

    folder = tmp_path_factory.mktemp("tracked")
    overrides = [
        "schedule.num_steps=2", "seeds=0-19", "block_size=10", "workers=1", "device=cpu",
        f"out={folder / 'runs'}", "metrics.num_groups=2", "metrics.kid_subset_size=10",
        "metrics.names=[fd_digits]",
    ]  # fmt: skip
    specs = [
        run_spec(overrides),
        run_spec([*overrides, "correction=erk_guid", "correction.w_stiff=0.5", "samples=none"]),
    ]
    sheet = {
        "Heun": np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8, 1),
        "ERK-Guid": np.ones((2, 8, 8, 1), np.uint8),  # dark, and one image short
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_ARRAY_JOB_ID", "4711")
        patch.setattr("erk_bench.reporting.trackers.wandb.tracker.PROGRESS_EVERY_S", 0.0)
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
            patch.delenv(name, raising=False)
        (folder / "theirs").mkdir()
        theirs = wandb.init(mode="offline", dir=folder / "theirs", settings=wandb.Settings(silent=True))
        spec = TrackerSpec(name="wandb", mode="offline", folder=str(folder / "mine"), tags=("draft",))
        launch = Launch("table", "small", specs)
        with open_tracker(spec, launch) as tracker:
            generate([specs], Worker(), tracker.advance, features=True)
            records = [score(spec) for spec in specs]
            for record in records:
                tracker.record(record, RunStore.folder_of(record.run_spec), FACTS)
            tracker.cells(CELLS)
            tracker.summary({"winner": "b", "winner/difference": -0.5})
            tracker.samples(sheet, [3, 4, 5])
            tracker.table(make_view())
            tracker.curves("figure4", CURVES)
            picture = folder / "steps.png"
            Image.fromarray(np.full((4, 6, 3), 77, np.uint8)).save(picture)
            tracker.picture("steps", picture)
        assert not {"WANDB_DATA_DIR", "WANDB_CACHE_DIR"} & set(os.environ)
        assert wandb.run is theirs  # the run of a notebook is left alone
        theirs.log({"still": "here"})
        theirs.finish()
    (user_run,) = read_runs(folder / "theirs")[""]
    return Tracked(folder, specs, records, sheet, read_runs(folder / "mine"), user_run)


def test_default_tracker_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_tracker(TrackerSpec(), Launch("run", "x", [])) as tracker:
        assert type(tracker) is Tracker
        tracker.table(make_view())
        tracker.picture("none", tmp_path / "none.png")
        tracker.curves("none", CURVES)
        tracker.samples({}, [])
    assert list(tmp_path.iterdir()) == []


def test_wandb_is_imported_for_its_tracker_only() -> None:
    code = "import sys, erk_bench.cli, erk_bench.reporting.trackers; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    for name in ("tracker", "runs"):
        monkeypatch.delitem(sys.modules, f"erk_bench.reporting.trackers.wandb.{name}", raising=False)
    with (
        pytest.raises(UserError, match=r"pip install 'erk-bench\[wandb\]'"),
        open_tracker(TrackerSpec(name="wandb"), Launch("run", "x", [])),
    ):
        pass


def test_unknown_tracker_names_its_neighbour() -> None:
    with (
        pytest.raises(UserError, match="unknown tracker 'wandbb'; did you mean 'wandb'"),
        open_tracker(TrackerSpec(name="wandbb"), Launch("run", "x", [])),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mode": "of"}, "unknown tracker.mode 'of'.*online, offline"),
        ({"folder": ""}, "tracker.folder is empty"),
        ({"tags": ["x" * 65]}, "a tag has 1 to 64 characters"),
        ({"projet": "x"}, "unknown field in tracker 'projet'; did you mean 'project'"),
    ],
)
def test_bad_settings_are_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(TrackerSpec, content, "tracker")


def test_one_run_a_launch_a_result_and_a_curve(made: Tracked) -> None:
    assert {kind: len(several) for kind, several in made.runs.items()} == {
        "launch": 1, "result": 2, "curve": 2,
    }  # fmt: skip
    every = [run for several in made.runs.values() for run in several]
    assert len({run.info.run_id for run in every}) == 5
    for run in every:
        assert (run.info.project, run.info.run_group, run.exit_code) == ("erk-bench", "small", 0)
        assert {"table", "small", "slurm-array-4711", "draft"} <= run.tags
        assert run.folder.name.startswith("offline-run-")


def test_launch_shows_progress(made: Tracked) -> None:
    (launch,) = made.runs["launch"]
    assert launch.series(IMAGES) == [10, 20, 30, 40]
    assert launch.series(FRACTION) == [0.25, 0.5, 0.75, 1.0]
    seconds = launch.series(SECONDS)
    assert seconds == sorted(seconds)
    assert launch.series(IMAGES_PER_S) == pytest.approx(
        [images / spent for images, spent in zip((10, 20, 30, 40), seconds, strict=True)]
    )
    assert launch.steps["progress/*"] == SECONDS
    assert launch.config["runs"] == sorted(f"{spec.run_id} 0-19" for spec in made.specs)
    assert launch.config["slurm"] == {"SLURM_ARRAY_JOB_ID": "4711"}


def test_result_has_the_whole_spec_and_every_metric_with_its_error(made: Tracked) -> None:
    for run, record in zip(made.runs["result"], made.records, strict=True):
        config = {key: value for key, value in run.config.items() if key != "_wandb"}
        assert config.items() >= to_dict(record.run_spec).items()
        assert build(RunSpec, {key: config[key] for key in to_dict(record.run_spec)}) == record.run_spec
        assert config["run_id"] == record.run_id
        assert config["reference"] == record.reference
        assert config["environment"] == json.loads(json.dumps(record.environment))
        metric = record.metrics["fd_digits"]
        (row,) = run.history
        assert row["fd_digits"] == metric.value
        assert row["fd_digits_se"] == metric.standard_error
        assert row["nfe"] == record.nfe == 3
        assert run.summary["fd_digits"] == metric.value
        assert {"digits", "heun"} <= run.tags
    assert ["erk_guid" in run.tags for run in made.runs["result"]] == [False, True]


def test_options_are_plain_keys(small_run: Callable[..., RunSpec], tmp_path: Path) -> None:
    spec = small_run("solver=deis", "solver.max_order=2", "guidance=power_law", "guidance.weight=2",
                     "guidance.alpha=0.5")  # fmt: skip
    assert (dict(spec.solver.options), dict(spec.guidance.options)) == ({"max_order": 2}, {"alpha": 0.5})
    (run,) = track_records(tmp_path, record_of(spec))["result"]
    assert (run.config["solver"]["name"], run.config["solver"]["max_order"]) == ("deis", 2)
    assert (run.config["guidance"]["weight"], run.config["guidance"]["alpha"]) == (2.0, 0.5)
    assert "options" not in {**run.config["solver"], **run.config["guidance"]}


def test_summaries_have_winner_difference_and_verdict(made: Tracked) -> None:
    for run in made.runs["result"]:
        assert run.summary.items() >= FACTS.items()
    (launch,) = made.runs["launch"]
    assert launch.summary["winner"] == "b"
    assert launch.summary["winner/difference"] == -0.5


def test_cells_are_a_table(made: Tracked) -> None:
    (launch,) = made.runs["launch"]
    content = json.loads((launch.folder / "files" / launch.series("table/small/path")[0]).read_text())
    assert content["columns"] == ["solver", "w_con", "fd_digits", "verdict"]
    assert content["data"] == [["heun", 0.1, 1.5, ""], ["deis", 0.5, None, "better"]]


def test_lineage_leads_from_checkpoint_to_record(made: Tracked) -> None:
    (launch,) = made.runs["launch"]
    (checkpoint,) = launch.used()
    assert checkpoint.startswith("checkpoint-package-digits-weights-")
    assert json.loads(launch.text(checkpoint))["sha256"] == made.specs[0].model.weights.sha256
    with_samples, without = made.records
    tables = {name for name in launch.logged() if launch.artifacts[name][0].type == "run_table"}
    assert len(tables) == 1  # W&B's own way to keep a table
    assert launch.logged() - tables == {
        f"samples-{with_samples.run_id}",
        f"features-{with_samples.run_id}",
        f"features-{without.run_id}",
    }
    for run, record in zip(made.runs["result"], made.records, strict=True):
        assert run.used() == {f"features-{record.run_id}", "reference-statistics-digits"}
        assert run.logged() == {f"record-{record.run_id}"}
        assert json.loads(run.text("reference-statistics-digits")) == record.reference
        features = f"features-{record.run_id}"
        # The same version on both sides, so that the service joins them.
        assert run.artifacts[features][0].digest == launch.artifacts[features][0].digest


def test_manifests_have_each_block_with_size_and_checksum(made: Tracked) -> None:
    (launch,) = made.runs["launch"]
    record = made.records[0]
    folder = RunStore.folder_of(record.run_spec)
    files = json.loads(launch.text(f"features-{record.run_id}"))["files"]
    assert [(file["first_seed"], file["num_seeds"]) for file in files] == [(0, 10), (10, 10)]
    for index, file in enumerate(files):
        path = folder / file["path"]
        assert path.parent.parent == folder / "features"
        assert file["bytes"] == path.stat().st_size
        assert f'\\"file_sha256\\": \\"{file["sha256"]}\\"' in path.read_bytes()[:2000].decode("latin1")
        assert path.name == f"{index:08d}.safetensors"


def test_record_artifact_is_the_file(made: Tracked, tmp_path: Path) -> None:
    for run, record in zip(made.runs["result"], made.records, strict=True):
        write_record(tmp_path / "record.json", record)
        name = f"record-{record.run_id}"
        assert run.text(name) == (tmp_path / "record.json").read_text()
        (artifact,) = run.artifacts[name]
        (entry,) = artifact.manifest.contents
        assert (entry.path, entry.size) == ("record.json", (tmp_path / "record.json").stat().st_size)
        assert sorted(artifact.aliases) == ["0-19", "latest"]
        assert artifact.user_created is False


def test_no_big_file_is_kept_for_upload(made: Tracked) -> None:
    files = [path for path in (made.folder / "mine").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1e6
    assert not [path for path in files if path.suffix == ".safetensors"]
    assert {path.relative_to(made.folder / "mine").parts[0] for path in files} == {"wandb"}


def test_samples_are_the_exact_pixels_side_by_side(made: Tracked) -> None:
    (launch,) = made.runs["launch"]
    (files,) = launch.series("samples/filenames")
    (captions,) = launch.series("samples/captions")
    assert captions == ["Heun: seeds 3, 4, 5", "ERK-Guid: seeds 3, 4, 5"]
    for name, images in zip(files, made.sheet.values(), strict=True):
        path = launch.folder / "files" / name
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:20] in name
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == (64, 3 * 64)
        small = pixels[::8, ::8]
        assert (small.repeat(8, 0).repeat(8, 1) == pixels).all()
        for index in range(3):
            expected = images[index, ..., 0] if index < len(images) else 0
            assert (small[:, 8 * index : 8 * index + 8] == expected).all()


def test_table_has_numbers(made: Tracked) -> None:
    (launch,) = made.runs["launch"]
    _, path = launch.series("table/small/path")  # behind the cells
    content = json.loads((launch.folder / "files" / path).read_text())
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    view = make_view()
    assert len(rows) == len(view.rows)
    for shown, row in zip(rows, view.rows, strict=True):
        assert shown["method"] == row.method
        assert (shown["fd_digits"], shown["fd_digits_se"]) == row.metrics["fd_digits"][1]
        assert (shown["difference"], shown["difference_se"]) == (row.difference or (None, None))
        assert (shown["steps"], shown["nfe"]) == (row.steps, row.nfe)
        assert shown["reproduced"] == row.reproduction


def test_curves_have_the_setting_as_their_axis(made: Tracked) -> None:
    for run, curve in zip(made.runs["curve"], CURVES, strict=True):
        w_stiff = curve.facts["w_stiff"]
        assert run.config.items() >= {"label": curve.label, "steps": 8, "w_stiff": w_stiff}.items()
        assert run.steps == {"w_con": "", "fd_digits": "w_con", "fd_digits_se": "w_con", "fid": "w_con",
                             "fid_se": "w_con"}  # fmt: skip
        assert run.series("w_con") == [0.1, 0.5]
        assert run.series("fd_digits") == [1.5 * w_stiff, 2.5 * w_stiff]
        assert run.series("fd_digits_se") == [0.125, 0.25]
        assert run.series("fid") == [7.0]


def test_picture_is_shown(made: Tracked) -> None:
    (launch,) = made.runs["launch"]
    (path,) = launch.series("figure/steps/path")
    assert (np.asarray(Image.open(launch.folder / "files" / path)) == 77).all()


def test_run_of_a_notebook_is_untouched(made: Tracked) -> None:
    assert made.user_run.series("still") == ["here"]
    assert made.user_run.artifacts == {}
    assert not {IMAGES, "samples/filenames"} & {key for row in made.user_run.history for key in row}


def track_records(folder: Path, *records: Record, spec: TrackerSpec | None = None) -> dict[str, Any]:
    spec = spec or TrackerSpec(name="wandb", mode="offline", folder=str(folder))
    with open_tracker(spec, Launch("table", "small", [records[0].run_spec])) as tracker:
        for record in records:
            tracker.record(record)
    return read_runs(folder)


def test_repeat_updates_and_other_seeds_are_another_run(made: Tracked, tmp_path: Path) -> None:
    record = made.records[0]
    other = dataclasses.replace(record, seeds="20-39", spec={**record.spec, "seeds": "20-39"})
    again = track_records(tmp_path, record, other)["result"]
    assert again[0].info.run_id == made.runs["result"][0].info.run_id
    assert again[1].info.run_id != again[0].info.run_id
    assert again[0].used() == {next(iter(made.runs["launch"][0].used())), "reference-statistics-digits"}


def test_failed_command_shows_as_failed(made: Tracked, tmp_path: Path) -> None:
    spec = TrackerSpec(name="wandb", mode="offline", folder=str(tmp_path))
    with (
        pytest.raises(ZeroDivisionError),
        open_tracker(spec, Launch("run", "x", made.specs[:1])) as tracker,
    ):
        tracker.advance(made.specs[0], 5)
        raise ZeroDivisionError
    (launch,) = read_runs(tmp_path)["launch"]
    assert launch.exit_code == 1
    assert launch.series(IMAGES) == [5]


def test_failure_is_told_once_and_ends_tracking_only(
    made: Tracked, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    spec = TrackerSpec(name="wandb", mode="offline", folder=str(tmp_path / "file"))
    with open_tracker(spec, Launch("run", "x", made.specs[:1])) as tracker:
        tracker.advance(made.specs[0], 5)
        tracker.record(made.records[0])
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("W&B:")]
    assert len(told) == 1
    assert "tracking has ended" in told[0]


def test_without_a_key_it_is_offline_and_says_how_to_upload(
    made: Tracked, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = track_records(tmp_path, made.records[0], spec=TrackerSpec(name="wandb", folder=str(tmp_path)))
    assert set(runs) == {"launch", "result"}
    error = capfd.readouterr().err
    assert error.count("no key is set") == 1
    assert f"wandb sync --include-online {tmp_path}/wandb/*run-*" in error


@pytest.mark.parametrize(
    ("mode", "environment", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k" * 40}, "online"),
        ("auto", {"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "dryrun"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("online", {"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}, "online"),
        ("offline", {"WANDB_API_KEY": "k" * 40}, "offline"),
    ],
)
def test_mode_follows_setting_environment_and_key(
    mode: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from erk_bench.reporting.trackers.wandb.runs import find_mode

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert find_mode(TrackerSpec(name="wandb", mode=mode)) == expected


def test_key_of_wandb_login_is_found(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import wandb

    from erk_bench.reporting.trackers.wandb.runs import find_mode

    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine wandb.example\n  login user\n  password {'k' * 40}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert find_mode(TrackerSpec(name="wandb")) == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    wandb.teardown()  # it read the environment when it was first used
    assert find_mode(TrackerSpec(name="wandb")) == "online"
    monkeypatch.delenv("WANDB_BASE_URL")
    wandb.teardown()
    netrc.write_text(netrc.read_text().replace("wandb.example", "api.wandb.ai"))
    assert find_mode(TrackerSpec(name="wandb")) == "online"  # the public service, under its first name


@pytest.fixture
def fresh() -> Iterator[None]:
    """wandb reads its environment anew; else it keeps what it found when it was first used."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.parametrize("where", ["environment", "netrc"])
def test_key_that_is_cut_off_is_refused_before_any_work(
    where: str, fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "k" * 39)
    else:
        (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {'k' * 39}\n")
        (tmp_path / "netrc").chmod(0o600)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with (
        pytest.raises(UserError, match="key for https://.* has 39 characters, and needs 40 or more"),
        open_tracker(TrackerSpec(name="wandb"), Launch("run", "x", [])),
    ):
        pass


@pytest.mark.parametrize("content", ["machine", "machine api.wandb.ai login user\n", "", None])
def test_netrc_without_a_key_is_none(
    content: str | None, fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from erk_bench.reporting.trackers.wandb.runs import find_mode

    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if content is not None:
        (tmp_path / "netrc").write_text(content)
    assert find_mode(TrackerSpec(name="wandb")) == "offline"


def test_settings_that_a_version_of_wandb_lacks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import pydantic
    import wandb

    from erk_bench.reporting.trackers.wandb.runs import Patience, settings_of

    whole = settings_of(live=False, patience=Patience())
    assert (whole.console, whole.finish_timeout, whole.x_disable_stats) == ("off", 30, True)
    fewer = pydantic.create_model(
        "Fewer",
        __config__=pydantic.ConfigDict(extra="forbid"),
        console=(str, ""),
        x_disable_meta=(bool, True),
    )
    monkeypatch.setattr(wandb, "Settings", fewer)
    assert settings_of(live=True, patience=Patience()).model_dump() == {
        "console": "off", "x_disable_meta": False,
    }  # fmt: skip


def test_input_is_shown_in_the_config_where_wandb_has_not_the_private_call(
    made: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    real = wandb.Run._log_artifact

    def other(self: Any, artifact: Any, name: Any = None, type: Any = None, aliases: Any = None,
              tags: Any = None) -> Any:  # fmt: skip
        return real(self, artifact, name, type, aliases, tags)

    monkeypatch.setattr(wandb.Run, "_log_artifact", other)
    record = made.records[0]
    (run,) = track_records(tmp_path, record)["result"]
    assert run.used() == set()
    assert run.logged() == {f"record-{record.run_id}"}
    assert run.config["input reference-statistics-digits"] == record.reference
    assert run.series("fd_digits") == [record.metrics["fd_digits"].value]


def test_one_private_call_of_wandb() -> None:
    """Its public interface is all else: no module of wandb's own, no name that begins with a line."""
    import erk_bench.reporting.trackers.wandb as package

    private = []
    for file in Path(package.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not [item for item in node.names if item.name.startswith("wandb.")], file
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] != "wandb", file
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                assert not ast.unparse(node).startswith("wandb."), file
                if ast.unparse(node.value) != "self" and not node.attr.startswith("__"):
                    private.append(node.attr)
    assert private == ["_log_artifact"]


def test_online_without_a_key_is_refused_before_any_work() -> None:
    with (
        pytest.raises(UserError, match="no key for https://.* is set; run 'wandb login'"),
        open_tracker(TrackerSpec(name="wandb", mode="online"), Launch("run", "x", [])),
    ):
        pass


def test_disabled_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with open_tracker(TrackerSpec(name="wandb"), Launch("run", "x", [])) as tracker:
        assert type(tracker) is Tracker


@pytest.mark.parametrize("channels", [1, 3])
def test_strip_keeps_order_and_size(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, channels), dtype=np.uint8)
    strip = tracked.strip(images, 3)
    assert strip.shape == (64, 192, channels)
    assert (strip[:, 64:128] == images[1]).all()
    assert (strip[:, 128:] == 0).all()
