"""Grids end to end: shared trajectories equal separate runs, also after a stop."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pytest
import yaml

from erk_bench.base import stopping
from erk_bench.cli import main
from erk_bench.commands.compose_studies import grid_cells, grid_file
from erk_bench.reporting.grid_figures import curves_figure
from erk_bench.runs import finish_block
from erk_bench.runs.blocks import Worker, blocks_of
from erk_bench.runs.generate import generate, unfinished
from erk_bench.runs.records import Record, read_record
from erk_bench.runs.score import finished_record, record_path, score
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec
from erk_bench.studies.grid import build_grid_view
from erk_bench.studies.grid_file import Cell, Grid, trees
from tests.runs.test_generate import contents, ignore

STEPS, W_STIFF, W_CON = "schedule.num_steps", "correction.w_stiff", "correction.w_con"
METRICS = ["fd_digits", "recall_digits"]
BLOCKS = 5

CONTENT = {
    "name": "small",
    "title": "A small grid",
    "caption": "Made here.",
    "base": ["track=digits", "correction=erk_guid", "seeds=0-39", "block_size=8", "workers=1", "device=cpu",
             "metrics.num_groups=5", f"metrics.names=[{','.join(METRICS)}]"],
    "axes": {STEPS: [4], W_STIFF: [0.5, 1.0], W_CON: [0.0, 0.5]},
    "panels": METRICS,
}  # fmt: skip


class Small(NamedTuple):
    """A grid file, the words of the command on it, and where that puts its runs and records."""

    file: Path
    words: list[str]
    folder: Path

    def specs(self, *overrides: str) -> list[RunSpec]:
        """Every run, baselines included."""
        settings = [f"out={self.folder / 'runs'}", *overrides]
        return [spec for tree in trees(self.cells(*settings)[1]) for spec in tree]

    def cells(self, *overrides: str) -> tuple[Grid, list[Cell]]:
        return grid_cells(grid_file(str(self.file)), overrides)

    def record(self, spec: RunSpec) -> Record:
        return read_record(self.folder / "records" / f"{spec.run_id}.json")


def make_small(folder: Path) -> Small:
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    words = ["grid", f"grid={file}", f"out={folder / 'runs'}", f"records={folder / 'records'}"]
    return Small(file, words, folder)


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return make_small(tmp_path)


class Separate(NamedTuple):
    """What a run of its own leaves behind."""

    files: dict[str, bytes]
    record: Record


@pytest.fixture(scope="module")
def separate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[RunSpec], Separate]:
    """Makes each run alone, once for all tests of this module."""
    folder = tmp_path_factory.mktemp("separate")
    known: dict[str, Separate] = {}

    def made(spec: RunSpec) -> Separate:
        if spec.run_id not in known:
            alone = dataclasses.replace(spec, out=str(folder), samples="blocks", workers=1)
            generate([[alone]], Worker(), ignore, features=True)
            known[spec.run_id] = Separate(contents(alone), score(alone))
        return known[spec.run_id]

    return made


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The grid of CONTENT, computed; tests only read it."""
    made = make_small(tmp_path_factory.mktemp("computed"))
    assert main(made.words) == 0
    return made


def check_equal(small: Small, separate: Callable[[RunSpec], Separate], *overrides: str) -> None:
    """Numbers and bytes of every run of a grid equal those of the run alone."""
    for spec in small.specs(*overrides):
        alone, record = separate(spec), small.record(spec)
        assert record.metrics == alone.record.metrics, spec.run_id
        assert (record.nfe, record.nfe_guide) == (alone.record.nfe, alone.record.nfe_guide)
        assert contents(spec) == alone.files, spec.run_id


def test_a_grid_equals_separate_runs(computed: Small, separate: Callable[[RunSpec], Separate]) -> None:
    check_equal(computed, separate)
    specs = computed.specs()
    assert len({record.metrics["fd_digits"].value for record in map(computed.record, specs)}) == len(specs)


def test_records_tell_what_was_shared(computed: Small) -> None:
    """Evaluations add up to less than those of separate runs; shared time is no time of a run."""
    records = [computed.record(spec) for spec in computed.specs()]
    shared = [record.environment["shared"] for record in records]
    assert [entry["cells"] for entry in shared] == [5] * 5
    total = sum(entry["evaluations"] for entry in shared)
    alone = sum(record.nfe * record.num_images for record in records)
    assert alone == 5 * 7 * 40
    # At least the baseline itself; each of the four cells with a gate parts from it somewhere.
    assert 7 * 40 < total < 0.9 * alone
    assert total == pytest.approx(round(total))  # single images were counted
    assert all(record.seconds_per_block == {} for record in records)
    assert all(record.seconds_per_1000 is None for record in records)
    text = (computed.folder / "runs" / "grids" / "small.md").read_text()
    assert f"{total:,.0f} network evaluations, {total / alone:.1%} of the {alone:,.0f}" in text


@pytest.mark.slow
def test_guidance_through_the_tree(small: Small, separate: Callable[[RunSpec], Separate]) -> None:
    overrides = ["guidance=cfg,autoguidance", f"{W_CON}=0.25"]
    assert main([*small.words, *overrides, "views=false"]) == 0
    check_equal(small, separate, *overrides)
    specs = small.specs(*overrides)
    assert [spec.guidance.name for spec in specs] == ["cfg"] * 3 + ["autoguidance"] * 3
    assert all(small.record(spec).nfe_guide == 7 for spec in specs)


@pytest.mark.slow
def test_two_local_workers_equal_one(small: Small, separate: Callable[[RunSpec], Separate]) -> None:
    assert main([*small.words, "workers=2", "views=false"]) == 0
    check_equal(small, separate, "workers=2")
    assert all(small.record(spec).environment["shared"]["cells"] == 5 for spec in small.specs())


def test_two_ranks_equal_one(
    small: Small, separate: Callable[[RunSpec], Separate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shares within its own blocks; rank 0 alone scores."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        assert not (small.folder / "records").exists()
        monkeypatch.setenv("RANK", rank)
        assert main([*small.words, "views=false"]) == 0
    check_equal(small, separate)
    assert all(small.record(spec).environment["shared"]["cells"] == 5 for spec in small.specs())
    assert all(computed_blocks(spec) == list(range(BLOCKS)) for spec in small.specs())


def computed_blocks(spec: RunSpec) -> list[int]:
    """The blocks that were sampled, as often as they were."""
    folder = RunStore.folder_of(spec) / "seconds"
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().split("\n") if line]
    return sorted(yaml.safe_load(line)["block"] for line in lines)


def test_only_missing_cells_are_computed(
    small: Small, separate: Callable[[RunSpec], Separate], capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs that were made alone keep their files and times; the others share what is left."""
    base, first, *others = small.specs()
    for spec in (base, first):
        generate([[spec]], Worker(), ignore, features=True)
    record = score(first)
    before = {path: path.stat().st_mtime_ns for path in small.folder.rglob("*.safetensors")}
    assert main([*small.words, "views=false"]) == 0
    assert "computed 4 of 5 runs" in capsys.readouterr().out  # the baseline lacked its record
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert all(computed_blocks(spec) == list(range(BLOCKS)) for spec in small.specs())
    assert small.record(first) == record and "shared" not in record.environment
    assert all(small.record(spec).environment["shared"]["cells"] == 3 for spec in others)
    check_equal(small, separate)
    assert main([*small.words, "views=false"]) == 0
    assert "computed" not in capsys.readouterr().out


@pytest.fixture
def listening() -> Iterator[None]:
    """This process stops after its block on SIGUSR2, for one test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)}
    stopping.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    stopping._asked = False


@pytest.mark.usefixtures("listening")
def test_a_stopped_grid_goes_on(
    small: Small,
    separate: Callable[[RunSpec], Separate],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The signal comes while the second block is sampled: every cell finishes it, no other is begun."""
    calls = 0

    def sample_tree(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGUSR2)
        return original(*args)  # type: ignore[arg-type]

    original = finish_block.sample_tree
    monkeypatch.setattr(finish_block, "sample_tree", sample_tree)
    words = [*small.words, "views=false"]
    assert main(words) == stopping.STATUS
    assert "stopped as SIGUSR2 asked; finished blocks are kept" in capsys.readouterr().err
    assert calls == 2 and not (small.folder / "records").exists()
    assert all(len(unfinished(spec, features=True)) == BLOCKS - 2 for spec in small.specs())
    assert not list(small.folder.rglob("*.tmp"))
    monkeypatch.setattr(stopping, "_asked", False)
    assert main(words) == 0
    assert calls == BLOCKS
    check_equal(small, separate)


@pytest.mark.slow
def test_a_grid_killed_between_writes_goes_on(small: Small, separate: Callable[[RunSpec], Separate]) -> None:
    """A block that only some cells have is sampled again for the others alone."""
    words = [*small.words, "views=false"]
    assert main(words) == 0
    specs = small.specs()
    for number, spec in enumerate(specs):
        folder = RunStore.folder_of(spec)
        features = sorted(folder.glob("features/*/*.safetensors"))
        if number >= 2:  # block 1 never came so far
            features[1].unlink()
            (folder / "images" / features[1].name).unlink()
        if number == 1:  # images of block 3 are there, features were not written
            features[3].unlink()
        shutil.rmtree(folder / "records")
    left = {path: path.stat().st_mtime_ns for path in small.folder.rglob("*.safetensors")}
    assert main(words) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in left.items())
    assert [computed_blocks(spec).count(1) for spec in specs] == [1, 1, 2, 2, 2]
    assert all(computed_blocks(spec).count(3) == 1 for spec in specs)
    check_equal(small, separate)


@pytest.mark.parametrize("samples", ["png", "none"])
@pytest.mark.slow
def test_what_is_kept_of_a_grids_images(
    samples: str, small: Small, separate: Callable[[RunSpec], Separate]
) -> None:
    assert main([*small.words, f"samples={samples}", f"{W_CON}=0.25", "views=false"]) == 0
    for spec in small.specs(f"samples={samples}", f"{W_CON}=0.25"):
        alone = separate(spec)
        assert contents(spec) == {name: data for name, data in alone.files.items() if "features" in name}
        assert small.record(spec).metrics == alone.record.metrics
        pictures = list(RunStore.folder_of(spec).glob("png/*/*.png"))
        assert len(pictures) == (40 if samples == "png" else 0)
        if samples == "png":
            kept = dataclasses.replace(spec, samples="blocks")
            folder = small.folder / "again" / spec.run_id / "images"
            store = RunStore.open(dataclasses.replace(kept, out=str(small.folder / "again")))
            for block in blocks_of(spec.seed_range, spec.block_size):
                store.write_images(block, RunStore.open(spec).read_images(block))
                name = f"{block.index:08d}.safetensors"
                assert (folder / name).read_bytes() == alone.files[f"images/{name}"]


def test_a_cell_that_is_not_finite_is_named(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*small.words, f"{W_STIFF}=0.5,1e38", f"{W_CON}=0"]) == 2
    bad = small.specs(f"{W_STIFF}=0.5,1e38", f"{W_CON}=0")[-1]
    told = capsys.readouterr().err
    assert "not finite for seeds 0, 1, 2, 3, 4 and others (8 of 8)" in told and bad.run_id in told
    assert "1 runs failed, the others of their trees are done" in told
    good = small.specs(f"{W_STIFF}=0.5", f"{W_CON}=0")
    assert all(not unfinished(spec, features=True) for spec in good)
    assert len(unfinished(bad, features=True)) == BLOCKS
    before = {path: path.stat().st_mtime_ns for path in small.folder.rglob("*.safetensors")}
    assert main([*small.words, f"{W_STIFF}=0.5", f"{W_CON}=0"]) == 0  # without it nothing is computed again
    assert {path: path.stat().st_mtime_ns for path in small.folder.rglob("*.safetensors")} == before


def test_records_keep_metrics_that_others_asked_for(small: Small) -> None:
    """A run with fewer metrics neither takes away nor measures again what an earlier one measured."""
    spec = small.specs(f"{W_STIFF}=0.5", f"{W_CON}=0")[-1]
    both = record_path(spec)
    assert main([*small.words, f"{W_STIFF}=0.5", f"{W_CON}=0", "views=false"]) == 0
    whole = read_record(both)
    fewer = dataclasses.replace(spec, metrics=dataclasses.replace(spec.metrics, names=("fd_digits",)))
    found = finished_record(fewer)
    assert found is not None and list(found.metrics) == ["fd_digits"] == list(found.run_spec.metrics.names)
    assert score(fewer).metrics == found.metrics
    kept = read_record(both)
    assert kept.metrics == whole.metrics and kept.run_spec.metrics == whole.run_spec.metrics
    other = dataclasses.replace(spec, metrics=dataclasses.replace(spec.metrics, names=("precision_digits",)))
    assert finished_record(other) is None
    assert list(score(other).metrics) == ["precision_digits"]
    assert list(read_record(both).metrics) == [*METRICS, "precision_digits"]
    coarser = dataclasses.replace(fewer, metrics=dataclasses.replace(fewer.metrics, num_groups=4))
    assert finished_record(coarser) is None
    score(coarser)  # measured in another way: nothing of the earlier record holds
    assert list(read_record(both).metrics) == ["fd_digits"]


def test_plain_solvers_of_several_curves(small: Small) -> None:
    """Where step counts are the curves, each has a plain solver of its own, and none is shown for all."""
    grid, cells = small.cells(f"{STEPS}=3,5", f"{W_STIFF}=0.5", f"out={small.folder / 'runs'}")
    grid = dataclasses.replace(grid, curves=STEPS)
    assert main([*small.words, f"{STEPS}=3,5", f"{W_STIFF}=0.5", "views=false"]) == 0
    records = {spec.run_id: read_record(record_path(spec)) for tree in trees(cells) for spec in tree}
    view = build_grid_view(grid, cells, records)
    assert [panel.baseline for panel in view.panels] == [None]
    figure = curves_figure(view)
    plt.close(figure)
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    levels = {float(line.get_ydata()[0]) for line in lines}
    assert levels == {records[cell.spec.baseline.run_id].metrics["fd_digits"].value for cell in cells}
    assert len(levels) == 2


def test_without_sampling_or_views(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    """What a last job does after those that sampled, and what those do."""
    assert main([*small.words, "sampling=false"]) == 2
    told = capsys.readouterr().err
    assert f"5 runs are not complete (first: {small.specs()[0].run_id}, 5 of 5 blocks), and sampling" in told
    assert not list(small.folder.rglob("*.safetensors"))
    assert main([*small.words, "views=false", f"{W_STIFF}=0.5"]) == 0
    assert "2 cells of grid small are done" in capsys.readouterr().out
    assert not (small.folder / "runs" / "grids").exists()
    assert main([*small.words, "sampling=false"]) == 2
    assert "2 runs are not complete" in capsys.readouterr().err
    assert main([*small.words, "sampling=false", f"{W_STIFF}=0.5"]) == 0
    assert (small.folder / "runs" / "grids" / "small.csv").is_file()
    for word in ("sampling=no", "views=0"):
        assert main([*small.words, word]) == 2
        assert "expected true or false" in capsys.readouterr().err


def test_panels_that_are_not_measured_are_told_before_any_work(
    small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*small.words, "metrics.names=[fd_digits]"]) == 2
    assert "grid 'small' shows 'recall_digits', but metrics.names is [fd_digits]" in capsys.readouterr().err
    assert not (small.folder / "runs").exists()


@pytest.mark.parametrize("words", [pytest.param(["plan"], marks=pytest.mark.slow), ["fetch", "dry_run=true"]])
def test_grids_of_weights_that_are_not_here(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Costs and files of a grid are known before its weights are fetched."""
    assert main([*words, "grid=figure4_16", f"{W_STIFF}=0.5,1", f"{W_CON}=0.1"]) == 0
    assert "edm2-img512-s" in capsys.readouterr().out


@pytest.mark.slow
def test_solvers_by_name(small: Small) -> None:
    """A grid without corrections: separate runs, and names on the abscissa."""
    base = [word for word in CONTENT["base"] if word != "correction=erk_guid"]
    content = {**CONTENT, "base": base, "axes": {STEPS: [4, 6], "solver": ["euler", "heun"]}}
    small.file.write_text(yaml.safe_dump(content, sort_keys=False))
    assert main([*small.words, "seeds=0-15", "metrics.num_groups=2"]) == 0
    assert len(list((small.folder / "runs" / "grids").glob("small-*.*"))) == 6
    assert all("shared" not in small.record(spec).environment for spec in small.specs())


@pytest.mark.slow
def test_share_on_the_axes_of_the_digits_grid(tmp_path: Path) -> None:
    """48 cells at 6 steps through the command; 0.261 of separate evaluations when this was written."""
    words = [f"{STEPS}=6", "seeds=0-39", "block_size=20", "workers=1", "device=cpu", "metrics.num_groups=5"]
    records = tmp_path / "records"
    assert main(["grid", *words, f"out={tmp_path / 'runs'}", f"records={records}", "views=false"]) == 0
    found = [read_record(path) for path in records.iterdir()]
    assert len(found) == 49
    counted = sum(record.environment["shared"]["evaluations"] for record in found)
    assert counted <= 0.27 * sum(record.nfe * record.num_images for record in found)
