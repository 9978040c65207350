"""Files of a run: atomic, checked, healed, locked."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from erk_bench import files, stages, stopping
from erk_bench.errors import BusyError, UserError
from erk_bench.files import write_atomic
from erk_bench.spec import RunSpec
from erk_bench.storage import store as store_module
from erk_bench.storage.blocks import Block, Worker
from erk_bench.storage.store import ImageBlock, RunStore, Timing

MakeSpec = Callable[..., RunSpec]


def opened(spec: RunSpec) -> RunStore:
    store = RunStore.open(spec)
    store.create()
    return store


def content(size: int = 8) -> ImageBlock:
    images = torch.arange(size * 64, dtype=torch.int64).reshape(size, 1, 8, 8) % 256
    return ImageBlock(images.to(torch.uint8), torch.arange(size) % 10, 7, 3)


def test_round_trip_and_same_bytes(small_run: MakeSpec) -> None:
    store, block = opened(small_run()), Block(2, 8)
    assert not store.has_images(block)
    store.write_images(block, content())
    path = store.folder / "images" / "00000002.safetensors"
    first = path.read_bytes()
    store.write_images(block, content())
    assert path.read_bytes() == first
    read = store.read_images(block)
    assert torch.equal(read.images, content().images) and (read.nfe, read.nfe_guide) == (7, 3)
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing temporary is left


def test_opening_writes_nothing(small_run: MakeSpec) -> None:
    assert not RunStore.open(small_run()).folder.exists()


def test_another_block_size_is_refused(small_run: MakeSpec) -> None:
    opened(small_run("block_size=8"))
    with pytest.raises(UserError, match="made with block_size 8, not 10; use block_size=8"):
        RunStore.open(small_run("block_size=10"))


def test_another_spec_is_refused(small_run: MakeSpec) -> None:
    """A folder renamed by hand to another run's name does not pass for it."""
    made, wanted = small_run(), small_run("schedule.num_steps=5")
    opened(made).folder.rename(RunStore.folder_of(wanted))
    with pytest.raises(UserError, match="made with digest"):
        RunStore.open(wanted)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_damaged_manifest(small_run: MakeSpec, text: str) -> None:
    store = opened(small_run())
    (store.folder / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run.json' is damaged"):
        RunStore.open(small_run())


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "swap"])
def test_damaged_block_is_set_aside_and_healed(small_run: MakeSpec, damage: str) -> None:
    """One clear error, the file kept under another name, and the next run computes the block anew."""
    spec = small_run("seeds=0-15")
    stages.generate([[spec]], Worker(), lambda spec, count: None, features=False)
    store = RunStore.open(spec)
    path = store.folder / "images" / "00000001.safetensors"
    good = path.read_bytes()
    bad = {
        "cut": good[: len(good) // 2],
        "flip": good[:-20] + bytes([good[-20] ^ 1]) + good[-19:],
        "empty": b"",
        "text": b"no block",
        "swap": (store.folder / "images" / "00000000.safetensors").read_bytes(),
    }[damage]
    path.write_bytes(bad)
    with pytest.raises(UserError, match=r"seeds 8-15\) is damaged.*run the same command again"):
        stages.generate([[spec]], Worker(), lambda spec, count: None, features=True)
    assert path.with_suffix(".damaged").read_bytes() == bad
    stages.generate([[spec]], Worker(), lambda spec, count: None, features=True)
    assert path.read_bytes() == good
    assert stages.unfinished(spec, features=True) == []


def test_missing_block_is_named(small_run: MakeSpec) -> None:
    with pytest.raises(UserError, match="missing; run 'erk-bench generate' again"):
        opened(small_run()).read_images(Block(3, 8))


def test_a_second_process_is_refused(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same worker, or a worker of another world size, while one holds the run; not a fellow worker."""
    monkeypatch.setattr(store_module, "LOCK_GRACE_S", 0.2)
    spec = small_run()
    store = opened(spec)
    with store.worker_lock(Worker(0, 2, 0)):
        for other in (Worker(0, 2, 0), Worker(0, 1, 0), Worker(1, 3, 1)):
            with (
                pytest.raises(BusyError, match=f"another process works on .*process {os.getpid()}"),
                RunStore.open(spec).worker_lock(other),
            ):
                pass
        with RunStore.open(spec).worker_lock(Worker(1, 2, 1)):
            pass
        with RunStore.open(dataclasses.replace(spec, seeds="500-507")).worker_lock(Worker()):
            pass  # other seeds of the run: the next task of a sweep
    assert BusyError.status == stopping.STATUS  # a scheduler tries it again
    # Fellow workers may look at the leftover lock of another world size at the same time.
    with (store.folder / "locks" / spec.seeds / "0-of-2").open() as looking:
        store_module.fcntl.flock(looking, store_module.fcntl.LOCK_SH)
        with RunStore.open(spec).worker_lock(Worker(1, 4, 1)):
            pass
    with RunStore.open(spec).worker_lock(Worker(0, 1, 0)):
        pass


def test_a_file_system_without_locks_is_told(
    small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(store_module.fcntl, "flock", refuses)
    with opened(small_run()).worker_lock(Worker()):
        pass
    assert "no locks here (No locks available); start only one launch" in capsys.readouterr().err


def test_a_dead_process_leaves_no_lock(small_run: MakeSpec) -> None:
    spec = small_run()
    store = opened(spec)
    code = (
        "import fcntl, os, signal, sys; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    locks = store.folder / "locks" / spec.seeds
    locks.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", code, locks / "0-of-1"], check=False)
    with store.worker_lock(Worker()):
        pass


def test_timings_survive_a_torn_line(small_run: MakeSpec) -> None:
    store = opened(small_run())
    store.note_timing(Worker(), Block(0, 8), Timing(1.5, "cpu"))
    store.note_timing(Worker(), Block(1, 8), Timing(2.5, "cpu"))
    path = store.folder / "seconds" / "0-of-1.jsonl"
    path.write_text(path.read_text()[:-5])
    assert store.timings() == {0: Timing(1.5, "cpu")}
    store.note_timing(Worker(), Block(2, 8), Timing(3.5, "gpu"))
    assert store.timings() == {0: Timing(1.5, "cpu"), 2: Timing(3.5, "gpu")}


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fails(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fails)
    with pytest.raises(UserError, match="disk full while writing"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        write_atomic(tmp_path / "file" / "below", b"x")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB; mounting one needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a tmpfs needs root (the failed write above is tested without)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(small_run: MakeSpec, small_disk: Path) -> None:
    """One clear error; finished blocks stay, nothing is torn, and with space the run goes on."""
    whole = small_run("seeds=0-159", "block_size=16")
    stages.generate([[whole]], Worker(), lambda spec, count: None, features=False)
    spec = small_run("seeds=0-159", "block_size=16", f"out={small_disk / 'runs'}")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 40 * 1024)
    with pytest.raises(UserError, match="disk full while writing .*finished files are kept"):
        stages.generate([[spec]], Worker(), lambda spec, count: None, features=False)
    done = len(list((RunStore.folder_of(spec) / "images").glob("*.safetensors")))
    assert 0 < done < 10
    assert not list(small_disk.rglob("*.tmp"))
    ballast.unlink()
    stages.generate([[spec]], Worker(), lambda spec, count: None, features=False)
    assert len(list((RunStore.folder_of(spec) / "images").glob("*.safetensors"))) == 10
    for path in (RunStore.folder_of(whole) / "images").iterdir():
        assert (RunStore.folder_of(spec) / "images" / path.name).read_bytes() == path.read_bytes()
