"""Blocks are decoded ahead within bounded memory, and errors come with their block and the image's name."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.evaluation.decoded_blocks import DecodedBlocks
from erk_bench.evaluation.image_set import ChangedError, ImageSet, open_set
from tests.evaluation.test_image_set import FORMS, pictures
from tests.evaluation.test_real_images import encoded, pixels, write_folder

BLOCK = 4 * 3 * 8 * 8  # bytes of a block of four


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder: Path = FORMS["folder"](tmp_path, pictures(12))
    return folder


def watched(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The positions that are decoded, as it goes on."""
    seen: list[int] = []
    view = ImageSet.view

    def noted(self: ImageSet, index: int) -> torch.Tensor:
        seen.append(index)
        return view(self, index)

    monkeypatch.setattr(ImageSet, "view", noted)
    return seen


@pytest.mark.parametrize("form", ["folder", "zip", "npz", "nchw"])
def test_blocks(form: str, tmp_path: Path) -> None:
    images = open_set(FORMS[form](tmp_path, pictures(12)))
    with DecodedBlocks(images, threads=3) as blocks:
        for positions in ([0, 1, 2], [7, 3], range(8, 12), [5]):
            found = blocks.read(positions)
            assert found.pixels.dtype == torch.uint8 and found.pixels.is_contiguous()
            expected = np.stack([pictures(12)[index] for index in positions]).transpose(0, 3, 1, 2)
            assert np.array_equal(found.pixels, expected)
            assert found.positions == list(positions) and found.left_out == {}


def test_the_next_blocks_are_decoded_meanwhile(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_set(place)
    seen = watched(images, monkeypatch)
    with DecodedBlocks(images, threads=2) as blocks:
        assert blocks.ahead(range(0, 4)) and blocks.ahead(range(4, 8)) and blocks.ahead(range(4, 8))
        blocks.read(range(0, 4))
        blocks.read(range(4, 8))
        assert sorted(seen) == list(range(8))  # nothing twice


def test_blocks_that_are_passed_over_give_their_memory_back(place: Path) -> None:
    """Another worker may take over a block that was begun here."""
    images = open_set(place)
    with DecodedBlocks(images, threads=1, most_bytes=2 * BLOCK) as blocks:
        for _ in range(3):
            assert blocks.ahead(range(0, 4)) and blocks.ahead(range(4, 8))
            assert blocks.read(range(4, 8)).pixels.shape == (4, 3, 8, 8)
            assert blocks.ahead(range(8, 12)) and blocks.ahead(range(0, 4))  # none is held by the first
            assert blocks.read(range(0, 4)).positions == [0, 1, 2, 3]
        assert np.array_equal(blocks.read(range(8, 12)).pixels[0].permute(1, 2, 0), pictures(12)[8])


def test_memory_is_bounded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_set(place)
    seen = watched(images, monkeypatch)
    with DecodedBlocks(images, threads=1, most_bytes=2 * BLOCK) as blocks:
        assert blocks.ahead(range(0, 4)) and blocks.ahead(range(4, 8))
        assert not blocks.ahead(range(8, 12))
        blocks.read(range(0, 4))
        assert 8 not in seen
        assert blocks.ahead(range(8, 12))
        assert blocks.read(range(8, 12)).pixels.shape == (4, 3, 8, 8)
    with DecodedBlocks(images, threads=1, most_bytes=1) as blocks:
        assert not blocks.ahead([0])
        assert blocks.read([0]).pixels.shape == (1, 3, 8, 8)


def inner_damage(place: Path, index: int) -> None:
    """A PNG with good checksums around nonsense: only decoding shows it."""
    import zlib

    raw = bytearray(encoded(pixels(index, 8, 8)))
    at = raw.index(b"IDAT") + 4
    size = int.from_bytes(raw[at - 8 : at - 4], "big")
    raw[at + 2 : at + 12] = b"\xff" * 10
    raw[at + size : at + size + 4] = zlib.crc32(raw[at - 4 : at + size]).to_bytes(4, "big")
    (place / f"{index:06d}.png").write_bytes(bytes(raw))


@pytest.mark.parametrize("damage", ["outside", "inside"])
def test_an_unreadable_image_belongs_to_its_block(damage: str, place: Path) -> None:
    if damage == "outside":
        (place / "000005.png").write_bytes(b"none")
    else:
        inner_damage(place, 5)
    images = open_set(place)
    assert (5 in images.unreadable) == (damage == "outside")
    with DecodedBlocks(images, threads=2) as blocks:
        for first in (0, 4, 8):
            blocks.ahead(range(first, first + 4))
        assert len(blocks.read(range(0, 4)).pixels) == 4
        with pytest.raises(UserError, match=r"cannot read image '000005\.png'"):
            blocks.read(range(4, 8))
        assert len(blocks.read(range(8, 12)).pixels) == 4
    with DecodedBlocks(images, threads=2, skip_unreadable=True) as blocks:
        found = blocks.read(range(4, 8))
        assert found.positions == [4, 6, 7] and list(found.left_out) == [5]
        assert "000005.png" in found.left_out[5]
        assert np.array_equal(found.pixels[1].permute(1, 2, 0), pictures(12)[6])
        nothing = blocks.read([5])
        assert nothing.positions == [] and nothing.pixels.shape == (0, 3, 8, 8)


def test_a_changed_image_is_never_skipped(place: Path) -> None:
    images = open_set(place)
    (place / "000001.png").write_bytes(b"none")
    with DecodedBlocks(images, threads=2, skip_unreadable=True) as blocks:
        with pytest.raises(ChangedError, match=r"000001\.png"):
            blocks.read(range(0, 4))
        assert len(blocks.read(range(4, 8)).pixels) == 4


def test_images_of_several_sizes_need_a_resolution(place: Path) -> None:
    write_folder(place, {"000003.png": encoded(pixels(1, 9, 5))})
    with pytest.raises(UserError, match="several sizes"):
        DecodedBlocks(open_set(place), threads=1)
    with DecodedBlocks(open_set(place, resolution=6), threads=1) as blocks:
        assert blocks.read(range(12)).pixels.shape == (12, 3, 6, 6)


def test_its_end_stops_the_threads(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_set(place)
    seen = watched(images, monkeypatch)
    begun, go_on = threading.Event(), threading.Event()
    raw = ImageSet._unchanged

    def slow(self: ImageSet, index: int) -> Any:
        begun.set()
        go_on.wait(10)
        return raw(self, index)

    monkeypatch.setattr(ImageSet, "_unchanged", slow)
    before = set(threading.enumerate())  # of tests that ended with an error
    with DecodedBlocks(images, threads=1) as blocks:
        blocks.ahead(range(12))
        begun.wait(10)
        go_on.set()
    left = set(threading.enumerate()) - before
    assert len(seen) <= 12 and not [each for each in left if each.name.startswith("decode")]
