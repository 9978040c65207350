"""File systems whose locks stay on a node: noticed, told once, and survived."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from erk_bench.base.processes import machine
from erk_bench.runs import finish_block, lock_probe
from erk_bench.runs.blocks import Block, Worker
from erk_bench.runs.claims import Claims
from erk_bench.runs.generate import generate, unfinished
from erk_bench.runs.launches import LOCKS
from erk_bench.runs.lock_probe import LockProbe, tell_once
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec
from tests.runs.test_generate import contents, generated, ignore

MakeSpec = Callable[..., RunSpec]

OTHER = "launch-0123abcd-77-88-0"  # a process of another machine


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_probe, "BEAT_S", 0.0)


def free(path: Path) -> bool:
    return False


def held(path: Path) -> bool:
    return True


@pytest.mark.parametrize(
    ("seen", "beats", "local"), [(free, True, True), (held, True, False), (free, False, False)]
)
@pytest.mark.usefixtures("at_once")
def test_a_living_process_whose_lock_is_not_seen_tells(
    tmp_path: Path, seen: Callable[[Path], bool], beats: bool, local: bool
) -> None:
    """Not one that is seen to hold it, nor one that shows no life: it may have ended."""
    (tmp_path / "own").touch()
    (tmp_path / OTHER).touch()
    probe = LockProbe(tmp_path / "own", seen)
    if beats:
        later = time.time() + 30
        os.utime(tmp_path / OTHER, (later, later))
    assert probe.locks_are_local() is local


@pytest.mark.usefixtures("at_once")
def test_processes_of_this_machine_tell_nothing(tmp_path: Path) -> None:
    (tmp_path / "own").touch()
    mine = tmp_path / f"launch-{machine()}-1-2-0"
    mine.touch()
    probe = LockProbe(tmp_path / "own", free)
    os.utime(mine, (time.time() + 30,) * 2)
    assert not probe.locks_are_local()


@pytest.mark.usefixtures("at_once")
def test_a_beat_is_a_sign_of_life(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.touch()
    os.utime(own, (1, 1))
    LockProbe(own, free).beat()
    assert own.stat().st_mtime > 1


def test_a_line_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all processes; long after, again."""
    for _ in range(3):
        tell_once(tmp_path, "x", "a line")
    assert capsys.readouterr().err == "a line\n"
    os.utime(tmp_path / "told-x", (1, 1))
    tell_once(tmp_path, "x", "a line")
    assert capsys.readouterr().err == "a line\n"


def test_claims_that_are_given_up_hold_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claims = Claims(tmp_path / "blocks")
    claims.give_up()
    claims.give_up()
    assert not claims.usable and claims.take("a", Block(0, 8))
    assert capsys.readouterr().err.count("locks do not reach other machines") == 1
    claims.close()


@pytest.mark.usefixtures("at_once")
def test_the_slowest_rank_does_not_decide_without_locks(
    small_run: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that is done takes over what is not there yet; each begins at another place."""
    plain = generated(small_run(f"out={tmp_path / 'plain'}"))
    monkeypatch.setattr(fcntl, "lockf", lambda *_: (_ for _ in ()).throw(OSError("no locks")))
    spec = small_run()
    made: list[tuple[int, int]] = []
    before = finish_block.sample_block

    def noted(rank: int) -> None:
        def sample(spec: RunSpec, seeds: range, place: object, **options: bool) -> object:
            made.append((rank, seeds[0] // 8))
            return before(spec, seeds, place, **options)  # type: ignore[arg-type]  # a Place

        monkeypatch.setattr(finish_block, "sample_block", sample)

    noted(1)
    generate([[spec]], Worker(1, 3, 1), ignore, features=True)
    assert contents(spec) == plain and sorted(block for _, block in made) == list(range(5))
    first = [block for _, block in made]
    made.clear()
    other = small_run(f"out={tmp_path / 'other'}")
    noted(2)
    generate([[other]], Worker(2, 3, 2), ignore, features=True)
    assert first[2:] != [block for _, block in made][1:]


def test_two_cards_files_of_a_block_are_not_mixed(
    small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process's images, of other bits, are there when this one writes: its features stay out."""
    monkeypatch.setattr(fcntl, "lockf", lambda *_: (_ for _ in ()).throw(OSError("no locks")))
    spec = small_run("seeds=0-7")
    before = RunStore.write_images

    def faster(store: RunStore, block: Block, content: object, png: bool = False, **more: bool) -> bool:
        theirs = content._replace(images=255 - content.images)  # type: ignore[attr-defined]  # an ImageBlock
        assert before(store, block, theirs, png)
        return before(store, block, content, png, **more)  # type: ignore[arg-type]  # the same

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "write_images", faster)
        generate([[spec]], Worker(), ignore, features=True)
    assert unfinished(spec, features=True) == [Block(0, 8)]
    generate([[spec]], Worker(), ignore, features=True)
    assert not unfinished(spec, features=True)
    store = RunStore.open(spec)
    (key,) = [path.name for path in (store.folder / "features").iterdir()]
    kept = store.read_images(Block(0, 8)).images
    from erk_bench.evaluation.detectors import DIGITS_WEIGHTS, load_digits_detector
    from erk_bench.runs.device import assets_of

    detect = load_digits_detector(assets_of(spec).locate(DIGITS_WEIGHTS))
    features = store.read_features(key, Block(0, 8))[0]["features"]
    assert torch.equal(features, detect(kept)["features"])


def test_another_machines_lock_file_is_left_alone(small_run: MakeSpec) -> None:
    """This machine may not see its lock; after a day without a sign of life it goes."""
    spec = small_run("seeds=0-7")
    folder = Path(spec.out) / LOCKS
    folder.mkdir(parents=True)
    (folder / OTHER).touch()
    generate([[spec]], Worker(), ignore, features=True)
    assert (folder / OTHER).exists()
    os.utime(folder / OTHER, (1, 1))
    generate([[small_run("seeds=8-15")]], Worker(), ignore, features=True)
    assert not (folder / OTHER).exists()
    assert re.fullmatch("launch-[0-9a-f]{8}-[0-9]+-[0-9]+-[0-9]+", OTHER)
