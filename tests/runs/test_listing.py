"""One look at the disk: it answers as the store does, and a launch does not repeat it."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from erk_bench.base.assets import Assets
from erk_bench.reporting.trackers.tracker import Tracker
from erk_bench.runs import device, launch
from erk_bench.runs import generate as pipeline
from erk_bench.runs.blocks import Block, Worker, blocks_of
from erk_bench.runs.device import assets_of
from erk_bench.runs.finish_block import detector_keys
from erk_bench.runs.generate import generate, unfinished
from erk_bench.runs.listing import Listing
from erk_bench.runs.score import record_path, score
from erk_bench.runs.store import DAMAGED, RunStore
from erk_bench.spec import RunSpec
from erk_bench.studies.records import compute_records
from tests.runs.test_generate import ignore

MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each run was listed, and how often the disk was asked for a block file ("asked")."""
    counts: Counter[str] = Counter()
    stat = os.stat

    class Counted(Listing):
        def __init__(self, store: RunStore, detectors: list[str]) -> None:
            counts[store.folder.name] += 1
            super().__init__(store, detectors)

    def counted(path: Any, *args: Any, **options: Any) -> os.stat_result:
        name = Path("" if isinstance(path, int) else os.fsdecode(path))
        if name.stem.isdigit() and name.suffix in (".safetensors", DAMAGED):
            counts["asked"] += 1
        return stat(path, *args, **options)

    monkeypatch.setattr(pipeline, "Listing", Counted)
    monkeypatch.setattr(os, "stat", counted)
    return counts


def records_of(*specs: RunSpec, **options: Any) -> None:
    assert compute_records([list(specs)], title="test", tracker=Tracker(), **options)


def test_a_launch_lists_each_run_once(small_run: MakeSpec, looks: Counter[str]) -> None:
    specs = [small_run("workers=1"), small_run("workers=1", "solver=euler")]
    records_of(*specs)
    assert [looks[spec.run_id] for spec in specs] == [1, 1]
    assert all(record_path(spec).is_file() for spec in specs)


def test_files_and_device_are_looked_up_once(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the records, the launch, its worker and the scores, for one run of 5 blocks or three of 10."""
    one = small_run("workers=1")
    three = [small_run("workers=1", "seeds=0-79", f"solver={name}") for name in ("euler", "heun", "dpm2")]
    counts: Counter[str] = Counter()
    from_environment, set_up = Assets.from_environment, device.set_up_device

    def files(offline: bool = False) -> Assets:
        counts["files"] += 1
        return from_environment(offline)

    def set_up_device(choice: str, local_rank: int) -> torch.device:
        counts["device"] += 1
        return set_up(choice, local_rank)

    monkeypatch.setattr(Assets, "from_environment", files)
    monkeypatch.setattr(device, "set_up_device", set_up_device)
    records_of(one)
    assert counts == {"files": 4, "device": 2}
    counts.clear()
    records_of(*three)
    assert counts == {"files": 4, "device": 2}


def test_finished_blocks_are_not_asked_for_one_by_one(small_run: MakeSpec, looks: Counter[str]) -> None:
    """The record alone is missing: the listing says that all blocks are there."""
    spec = small_run("workers=1")
    records_of(spec)
    record_path(spec).unlink()
    looks.clear()
    records_of(spec)
    assert looks == {spec.run_id: 1}
    looks.clear()
    records_of(spec)  # nothing to do at all
    assert looks == {spec.run_id: 1}


def test_questions_grow_with_missing_blocks_only(small_run: MakeSpec, looks: Counter[str]) -> None:
    """One block is missing, of 5 or of 40: the disk is asked as often."""
    asked = []
    for seeds in ("0-39", "0-319"):
        spec = small_run("workers=1", f"seeds={seeds}", "metrics.names=[fd_digits]")
        generate([[spec]], Worker(), ignore, features=True)
        (key,) = detector_keys(spec, assets_of(spec)).values()
        for folder in ("images", f"features/{key}"):
            (RunStore.folder_of(spec) / folder / "00000002.safetensors").unlink()
        looks.clear()
        assert launch.compute([[spec]], features=True, title="test")
        assert looks[spec.run_id] == 1
        asked.append(looks["asked"])
    assert asked == [0, 0]  # the listings tell all


@pytest.mark.slow
def test_a_file_system_is_asked_a_few_questions_a_run(
    small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a rank that finds all 3 runs of 60 blocks done, whichever rank did them: stat and listings."""
    specs = [
        small_run("seeds=0-59", "block_size=1", f"schedule.rho={rho}", "samples=none") for rho in (5, 6, 7)
    ]
    specs = [replace(spec, metrics=replace(spec.metrics, names=("fd_digits",))) for spec in specs]
    left = {spec.run_id: unfinished(spec, features=True) for spec in specs}
    generate([specs], Worker(0, 2), ignore, features=True)
    asked = Counter[str]()

    def counted(name: str) -> None:
        before = getattr(os, name)

        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            asked[name] += str(path).startswith(specs[0].out)
            return before(path, *arguments, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("stat", "scandir", "listdir", "mkdir", "open"):
        counted(name)
    generate([specs], Worker(1, 2), ignore, features=True, left=left)
    assert 0 < asked.total() <= 30 * len(specs), asked


def test_blocks_outside_the_look_are_left_alone(small_run: MakeSpec) -> None:
    spec = small_run("workers=1")
    generate([[spec]], Worker(), ignore, features=True, left={spec.run_id: [Block(3, 8)]})
    assert [block.index for block in unfinished(spec, features=True)] == [0, 1, 2, 4]


def test_a_file_damaged_after_the_look_is_made_anew(
    small_run: MakeSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    """A listing sees a damaged file as one that is there; a launch that is given the listing reads it."""
    spec = small_run("workers=1")
    generate([[spec]], Worker(), ignore, features=True)
    (key,) = detector_keys(spec, assets_of(spec)).values()
    for folder in ("images", f"features/{key}"):
        path = RunStore.folder_of(spec) / folder / "00000001.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    left = {spec.run_id: unfinished(spec, features=True)}
    assert left == {spec.run_id: []}
    assert launch.compute([[spec]], features=True, title="test", left=left)
    assert "2 block files were damaged" in capsys.readouterr().err
    assert unfinished(spec, features=True) == []
    assert score(spec, complete=True).num_images == 40


def test_damaged_images_that_nobody_keeps_do_not_hold_up_a_run(small_run: MakeSpec) -> None:
    """The features are there, and samples=none writes no images."""
    generate([[small_run()]], Worker(), ignore, features=True)
    spec = small_run("samples=none", "workers=1")
    path = RunStore.folder_of(spec) / "images" / "00000001.safetensors"
    path.write_bytes(b"?")
    assert launch.compute([[spec]], features=True, title="test")
    assert score(spec).num_images == 40


def test_a_listing_answers_as_the_store(small_run: MakeSpec) -> None:
    """With block files, PNG files, both, damaged ones, folders in the place of files, and nothing."""
    spec = small_run()
    generate([[spec]], Worker(), ignore, features=True)
    generate([[small_run("samples=png", "seeds=0-15")]], Worker(), ignore, features=True)
    store = RunStore.open(spec)
    (key,) = detector_keys(spec, assets_of(spec)).values()
    images, features = store.folder / "images", store.folder / "features" / key
    (images / "00000001.safetensors").unlink()  # its PNG files are there
    (images / "00000002.safetensors").rename(images / f"00000002{DAMAGED}")
    shutil.copy(images / "00000003.safetensors", images / f"00000003{DAMAGED}")
    (images / "00000004.safetensors").unlink()
    (images / "00000004.safetensors").mkdir()
    (features / "00000003.safetensors").unlink()
    blocks = [*blocks_of(spec.seed_range, spec.block_size), Block(5, 8)]

    def answers(files: RunStore | Listing) -> list[tuple[bool, ...]]:
        return [
            (*(files.has_images(block, png) for png in (None, True, False)), files.lost_images(block),
             files.has_features(key, block), files.has_features("other", block))
            for block in blocks
        ]  # fmt: skip

    assert answers(Listing(store, [key, "other"])) == answers(store)
    assert len(set(answers(store))) > 4
    shutil.rmtree(store.folder)
    assert answers(Listing(store, [key, "other"])) == answers(store) == [(False,) * 6] * len(blocks)
