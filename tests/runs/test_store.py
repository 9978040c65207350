"""Files of a run: atomic, checked, healed, locked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from erk_bench.base import files
from erk_bench.base.errors import DamagedError, UserError
from erk_bench.base.files import write_atomic
from erk_bench.runs import launch
from erk_bench.runs.block_files import DamagedFile, block_bytes, block_facts, parse_block
from erk_bench.runs.blocks import Block, Worker
from erk_bench.runs.export import images_of
from erk_bench.runs.generate import generate, unfinished
from erk_bench.runs.score import score
from erk_bench.runs.store import ImageBlock, RunStore
from erk_bench.runs.timings import Timing
from erk_bench.spec import RunSpec
from tests.conftest import DATA
from tests.runs.test_generate import ignore

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


def test_manifest_lists_whole_files_by_their_headers(small_run: MakeSpec) -> None:
    store, blocks = opened(small_run()), [Block(0, 8), Block(1, 8)]
    store.write_images(blocks[0], content())
    assert RunStore.manifest(store.folder, "images", blocks) == []  # one is missing
    store.write_images(blocks[1], content())
    first, second = RunStore.manifest(store.folder, "images", blocks)
    path = store.folder / "images" / "00000001.safetensors"
    assert (first["first_seed"], second["first_seed"], second["num_seeds"]) == (0, 8, 8)
    assert (second["path"], second["bytes"]) == ("images/00000001.safetensors", path.stat().st_size)
    assert second["sha256"] == block_facts(path.read_bytes())["file_sha256"]
    for raw in (b"", b"\xff" * 100, path.read_bytes()[:20], b"\2\0\0\0\0\0\0\0{}"):
        path.write_bytes(raw)
        assert RunStore.manifest(store.folder, "images", blocks) == []


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


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "[" * 100_000, "\xff\0", '{"sha256": 5}'])
def test_a_damaged_manifest_is_written_again(
    small_run: MakeSpec, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = opened(small_run())
    manifest = store.folder / "run.json"
    good = manifest.read_bytes()
    store.write_images(Block(0, 8), content())
    manifest.write_bytes(text.encode("latin-1"))
    assert RunStore.open(small_run()).has_images(Block(0, 8))
    assert manifest.read_bytes() != good  # looking writes nothing
    opened(small_run())
    assert manifest.read_bytes() == good and "was damaged; it is written again" in capsys.readouterr().err
    manifest.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="made with block_size 8, not 10"):  # the block file says so
        RunStore.open(small_run("block_size=10"))


@pytest.mark.slow
def test_no_bit_of_a_manifest_changes_unnoticed(small_run: MakeSpec) -> None:
    """Whatever flips, the run is opened, and its manifest is what it was."""
    spec = small_run()
    manifest = opened(spec).folder / "run.json"
    good = manifest.read_bytes()
    for place in range(0, 8 * len(good), 13):
        manifest.write_bytes(flipped(good, place))
        opened(spec)
        assert json.loads(manifest.read_bytes()) == json.loads(good)


def test_a_manifest_of_an_earlier_version(small_run: MakeSpec) -> None:
    manifest = opened(small_run()).folder / "run.json"
    earlier = json.loads(manifest.read_text())
    del earlier["sha256"]
    text = json.dumps(earlier, indent=2) + "\n"
    manifest.write_text(text)
    opened(small_run())
    assert manifest.read_text() == text
    manifest.write_text(text.replace('"num_steps": 4', '"num_steps": 6'))
    assert RunStore.open(small_run()).is_damaged


def flipped(raw: bytes, bit: int) -> bytes:
    return raw[: bit // 8] + bytes([raw[bit // 8] ^ (1 << bit % 8)]) + raw[bit // 8 + 1 :]


def test_no_bit_of_a_block_file_changes_unnoticed() -> None:
    """Every bit of a small file: tensors, seeds, counted evaluations, header, the checksum itself."""
    facts = {"run": "name", "first_seed": 8, "num_seeds": 8}
    raw = block_bytes({"features": torch.arange(6.0).reshape(2, 3)}, {**facts, "nfe": 7, "nfe_guide": 3})
    tensors, meta = parse_block(raw, facts)
    assert tensors["features"].tolist() == [[0, 1, 2], [3, 4, 5]] and meta["nfe"] == 7
    for bit in range(8 * len(raw)):
        with pytest.raises(DamagedFile):
            parse_block(flipped(raw, bit), facts)
    for size in range(len(raw)):
        with pytest.raises(DamagedFile):
            parse_block(raw[:size], facts)
    for other in ({"run": "other"}, {"first_seed": 0}, {"num_seeds": 4}):
        with pytest.raises(DamagedFile, match=f"its {next(iter(other))} does not match"):
            parse_block(raw, {**facts, **other})


def test_block_files_of_an_earlier_version_are_checked_by_their_own_checksum(small_run: MakeSpec) -> None:
    """tests/data/README.md says how this one was made."""
    raw = (DATA / "earlier_block.safetensors").read_bytes()
    facts = {"run": "digits-heun4-8d950f1423", "first_seed": 8, "num_seeds": 8}
    tensors, meta = parse_block(raw, facts)
    assert tensors["features"].shape == (8, 64) and (meta["nfe"], meta["nfe_guide"]) == (7, 0)
    with pytest.raises(DamagedFile, match="its sha256 does not match"):
        parse_block(flipped(raw, 8 * len(raw) - 9), facts)


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda good: good[: len(good) // 2],
    lambda good: flipped(good, 8 * len(good) - 160),
    lambda good: b"",
    lambda good: b"no block",
    lambda good: good.replace(b"8d950f1423", b"8d950f1424"),
    lambda good: good.replace(b'\\"nfe\\": 7', b'\\"nfe\\": 5'),
]


def test_damaged_blocks_are_found_at_once_and_healed_in_the_same_launch(
    small_run: MakeSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images and features alike; one line, the files kept under another name, the same bytes in the end."""
    spec = small_run("metrics.names=[fd_digits]")
    assert launch.compute([[spec]], features=True, title="test")
    good = {path: path.read_bytes() for path in sorted(RunStore.folder_of(spec).rglob("*.safetensors"))}
    assert len(good) == 10
    bad = {path: damage(good[path]) for path, damage in zip(list(good)[2:8], DAMAGES, strict=True)}
    assert all(bad[path] != good[path] for path in bad)
    for path, raw in bad.items():
        path.write_bytes(raw)
    capsys.readouterr()
    assert launch.compute([[spec]], features=True, title="test")
    assert {path: path.read_bytes() for path in good} == good
    assert all(path.with_suffix(".damaged").read_bytes() == raw for path, raw in bad.items())
    told = capsys.readouterr().err
    first = next(path for path in bad if path.parent.name == "images")
    assert told.count("warning") == 1
    assert f"6 block files were damaged and are computed again (first: '{first}'" in told


def test_images_that_were_damaged_are_made_anew_though_features_are_there(small_run: MakeSpec) -> None:
    """Unlike images that were deleted, which nobody needs once features are there."""
    spec = small_run("seeds=0-15")
    generate([[spec]], Worker(), ignore, features=True)
    path = RunStore.folder_of(spec) / "images" / "00000001.safetensors"
    good = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(DamagedError):
        RunStore.open(spec).read_images(Block(1, 8))
    assert unfinished(spec, features=True) == [Block(1, 8)]
    generate([[spec]], Worker(), ignore, features=True)
    assert path.read_bytes() == good


def test_a_reader_finds_all_damaged_images_at_once(small_run: MakeSpec) -> None:
    spec = small_run()
    generate([[spec]], Worker(), ignore, features=True)
    for index in (1, 2, 4):
        (RunStore.folder_of(spec) / "images" / f"{index:08d}.safetensors").write_bytes(b"")
    with pytest.raises(DamagedError, match="3 files are damaged"):
        list(images_of(spec))
    assert [block.index for block in unfinished(spec, features=True)] == [1, 2, 4]


def test_scoring_finds_all_damaged_features_at_once(small_run: MakeSpec) -> None:
    spec = small_run()
    generate([[spec]], Worker(), ignore, features=True)
    for path in sorted(RunStore.folder_of(spec).glob("features/*/*.safetensors"))[1:4]:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError, match="3 files are damaged"):
        score(spec)


def test_a_worker_that_reads_a_damaged_image_makes_it_anew(small_run: MakeSpec) -> None:
    spec = small_run("seeds=0-15")
    generate([[spec]], Worker(), ignore, features=False)
    path = RunStore.folder_of(spec) / "images" / "00000001.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    generate([[spec]], Worker(), ignore, features=True)
    assert path.read_bytes() == good and not unfinished(spec, features=True)


def test_missing_block_is_named(small_run: MakeSpec) -> None:
    with pytest.raises(UserError, match="missing; run 'erk-bench generate' again"):
        opened(small_run()).read_images(Block(3, 8))


def test_damaged_timings_are_skipped(small_run: MakeSpec) -> None:
    store = opened(small_run())
    store.note_timing(Worker(), Block(0, 8), Timing(1.5, "cpu"))
    store.note_timing(Worker(), Block(1, 8), Timing(2.5, "cpu"))
    path = store.folder / "seconds" / "0-of-1.jsonl"
    path.write_text(path.read_text()[:-5])
    assert store.timings() == {0: Timing(1.5, "cpu")}
    store.note_timing(Worker(), Block(2, 8), Timing(3.5, "gpu"))
    assert store.timings() == {0: Timing(1.5, "cpu"), 2: Timing(3.5, "gpu")}
    entry = {"block": 3, "seconds": 1.0, "device": "cpu", "cells": 1, "evaluations": None}
    bad = [{"seconds": "1"}, {"seconds": -1}, {"seconds": None}, {"cells": 0}, {"cells": "1"}, {"device": 5},
           {"evaluations": "many"}, {"block": -1}, {"block": "3"}, {"more": 1}]  # fmt: skip
    lines = [*(json.dumps({**entry, **change}) for change in bad), "[]", "5", "null", "[" * 100_000,
             json.dumps(entry).replace("1.0", "NaN"), json.dumps(entry).replace("1.0", "1e999")]  # fmt: skip
    with path.open("ab") as file:
        file.write("\n".join(["", *lines, ""]).encode() + b"\xff\xfe\n" + json.dumps(entry).encode())
    assert store.timings() == {0: Timing(1.5, "cpu"), 2: Timing(3.5, "gpu"), 3: Timing(1.0, "cpu")}


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
    generate([[whole]], Worker(), lambda spec, count: None, features=False)
    spec = small_run("seeds=0-159", "block_size=16", f"out={small_disk / 'runs'}")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 40 * 1024)
    with pytest.raises(UserError, match="disk full while writing .*finished files are kept"):
        generate([[spec]], Worker(), lambda spec, count: None, features=False)
    done = len(list((RunStore.folder_of(spec) / "images").glob("*.safetensors")))
    assert 0 < done < 10
    assert not list(small_disk.rglob("*.tmp"))
    ballast.unlink()
    generate([[spec]], Worker(), lambda spec, count: None, features=False)
    assert len(list((RunStore.folder_of(spec) / "images").glob("*.safetensors"))) == 10
    for path in (RunStore.folder_of(whole) / "images").iterdir():
        assert (RunStore.folder_of(spec) / "images" / path.name).read_bytes() == path.read_bytes()
