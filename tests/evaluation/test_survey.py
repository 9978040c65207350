"""A pass over a set is kept: the second one reads what is new or changed, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from erk_bench.base.errors import UserError
from erk_bench.evaluation import survey as module
from erk_bench.evaluation.image_source import ImageSource
from erk_bench.evaluation.real_images import open_images
from erk_bench.evaluation.survey import Survey, survey
from tests.evaluation.test_real_images import encoded, pixels, write, write_folder


def looked_at(
    place: Path,
    cache: Path | None,
    load: Callable[[ImageSource, int], bytes] = lambda source, i: source.load(i),
) -> tuple[Survey, list[str], list[int]]:
    """What a pass finds, the names of the images that it reads, and the counts that it tells."""
    source = open_images(place)
    reads, told = list[str](), list[int]()

    def counted(index: int) -> bytes:
        reads.append(source.names[index])
        return load(source, index)

    found = survey(replace(source, load=counted), cache=cache, threads=2, advance=told.append)
    return found, sorted(reads), told


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "set", {f"{i}.png": encoded(pixels(i)) for i in range(6)})


def test_the_second_pass_reads_nothing(place: Path, tmp_path: Path) -> None:
    first, reads, told = looked_at(place, tmp_path / "cache")
    assert len(reads) == 6 and sum(told) == 6
    again, reads, told = looked_at(place, tmp_path / "cache")
    assert reads == [] and sum(told) == 6
    assert again.digests.equal(first.digests) and again.sizes.equal(first.sizes) and again.problems == {}
    assert len(looked_at(place, None)[1]) == 6


def test_what_changed_is_read_again(place: Path, tmp_path: Path) -> None:
    looked_at(place, tmp_path / "cache")
    kept = (place / "1.png").stat()
    (place / "1.png").write_bytes(encoded(pixels(50)))
    os.utime(place / "1.png", ns=(kept.st_atime_ns, kept.st_mtime_ns))  # only ctime tells
    write_folder(place, {"new.png": encoded(pixels(51))})
    (place / "5.png").unlink()
    (place / "4.png").rename(place / "moved.png")
    found, reads, told = looked_at(place, tmp_path / "cache")
    assert reads == ["1.png", "moved.png", "new.png"] and sum(told) == 6
    fresh, _, _ = looked_at(place, None)
    assert found.digests.equal(fresh.digests) and found.sizes.equal(fresh.sizes)
    assert looked_at(place, tmp_path / "cache")[1] == []


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_kept_too(kind: str, tmp_path: Path) -> None:
    files = {f"{i}.png": encoded(pixels(i)) for i in range(4)}
    path = write(kind, tmp_path / "x", files)
    looked_at(path, tmp_path / "cache")
    assert looked_at(path, tmp_path / "cache")[1] == []
    write(kind, tmp_path / "x", files | {"2.png": encoded(pixels(60))})
    assert "2.png" in looked_at(path, tmp_path / "cache")[1]


def test_two_sets_have_files_of_their_own(place: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", {"0.png": encoded(pixels(70))})
    looked_at(place, tmp_path / "cache")
    assert looked_at(other, tmp_path / "cache")[1] == ["0.png"]
    assert looked_at(place, tmp_path / "cache")[1] == []


def test_a_damaged_image_is_tried_again(place: Path, tmp_path: Path) -> None:
    (place / "2.png").write_bytes(b"")
    found, _, _ = looked_at(place, tmp_path / "cache")
    assert list(found.problems) == [2] and found.sizes[2].tolist() == [0, 0]
    assert looked_at(place, tmp_path / "cache")[1] == ["2.png"]


def test_a_stopped_pass_goes_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_A_TIME", 2)

    def stopping(source: ImageSource, index: int) -> bytes:
        if index == 4:
            raise KeyboardInterrupt
        return source.load(index)

    with pytest.raises(KeyboardInterrupt):
        looked_at(place, tmp_path / "cache", stopping)
    reads = looked_at(place, tmp_path / "cache")[1]
    assert "4.png" in reads and not {"0.png", "1.png", "2.png", "3.png"} & set(reads)


@pytest.mark.parametrize("damage", ["cut", "nonsense", "empty", "folder"])
def test_a_damaged_cache_is_made_anew(damage: str, place: Path, tmp_path: Path) -> None:
    first, _, _ = looked_at(place, tmp_path / "cache")
    assert first.kept is not None
    raw = first.kept.read_bytes()
    first.kept.write_bytes({"cut": raw[:-5], "nonsense": b"x" * 50, "empty": b"", "folder": b""}[damage])
    if damage == "folder":
        first.kept.unlink()
        first.kept.mkdir()
        with pytest.raises(UserError, match="cannot write"):
            looked_at(place, tmp_path / "cache")
        return
    found, reads, _ = looked_at(place, tmp_path / "cache")
    assert len(reads) == 6 and found.digests.equal(first.digests)
    assert looked_at(place, tmp_path / "cache")[1] == []


def test_a_cache_that_cannot_be_written_is_told(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write"):
        looked_at(place, tmp_path / "file")
