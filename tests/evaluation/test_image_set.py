"""Sets of images in every form: one order, the same pixels, names that pair, and clear refusals."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.evaluation import array_images
from erk_bench.evaluation.image_set import (
    check_readable,
    check_sizes,
    open_set,
)
from tests.evaluation.test_real_images import (
    KINDS,
    encoded,
    pixels,
    write,
    write_folder,
    write_tar,
    write_zip,
)


def pictures(count: int, side: int = 8) -> list[np.ndarray]:
    return [pixels(index, side, side) for index in range(count)]


def pngs(images: list[np.ndarray], name: str = "{:06d}.png") -> dict[str, bytes]:
    return {name.format(index): encoded(image) for index, image in enumerate(images)}


def stacked(images: list[np.ndarray]) -> np.ndarray:
    return np.stack(images)


def save_lines(path: Path, lines: list[str], end: str = "\n") -> Path:
    path.write_text(end.join(lines) + end)
    return path


# Each writes the images in one form, and returns the place.
FORMS: dict[str, Callable[[Path, list[np.ndarray]], Any]] = {
    "folder": lambda to, images: write_folder(to / "flat", pngs(images)),
    "thousands": lambda to, images: write_folder(to / "deep", pngs(images, "000000/{:06d}.png")),
    "edm2": lambda to, images: write_folder(to / "edm2", pngs(images, "00000/img{:08d}.png")),
    "unpadded": lambda to, images: write_folder(to / "bare", pngs(images, "{}.png")),
    "zip": lambda to, images: write_zip(to / "x.zip", pngs(images)),
    "tar": lambda to, images: write_tar(to / "x.tar", dict(reversed(pngs(images).items()))),
    "shards": lambda to, images: shards(to, images, "s-*.tar"),
    "braces": lambda to, images: shards(to, images, "s-{0..1}.tar"),
    "npz": lambda to, images: saved(to / "x.npz", arr_0=stacked(images)),
    "compressed": lambda to, images: compressed(to / "x.npz", stacked(images)),
    "npy": lambda to, images: npy(to / "x.npy", stacked(images)),
    "nchw": lambda to, images: npy(to / "x.npy", stacked(images).transpose(0, 3, 1, 2).copy()),
    "arrays": lambda to, images: arrays(to, images),
    "list": lambda to, images: listed(to, images),
}  # fmt: skip


def shards(to: Path, images: list[np.ndarray], pattern: str) -> str:
    files = list(pngs(images).items())
    for index in range(2):
        write_tar(to / f"s-{index}.tar", dict(files[index::2]))
    return str(to / pattern)


def saved(path: Path, **values: Any) -> Path:
    np.savez(path, **values)
    return path


def compressed(path: Path, values: np.ndarray) -> Path:
    np.savez_compressed(path, values)
    return path


def npy(path: Path, values: np.ndarray) -> Path:
    np.save(path, values)
    return path


def arrays(to: Path, images: list[np.ndarray]) -> str:
    npy(to / "a-0.npy", stacked(images[:5]))
    saved(to / "a-1.npz", arr_0=stacked(images[5:]))
    return str(to / "a-*.np[yz]")


def listed(to: Path, images: list[np.ndarray]) -> Path:
    write_folder(to / "some" / "where", pngs(images))
    return save_lines(to / "set.txt", [f"some/where/{name}" for name in reversed(pngs(images))])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_set(form: str, tmp_path: Path) -> None:
    """Pixels in the order of the numbers, names that pair, sizes, and content that follows the pixels."""
    images = pictures(12)
    found = open_set(FORMS[form](tmp_path, images))
    assert len(found) == 12 and found.numbers == "0-11"
    for index, image in enumerate(images):
        assert np.array_equal(found.pixels(index).permute(1, 2, 0), image)
        assert found.pixels(index).dtype == torch.uint8 and found.pixels(index).is_contiguous()
    assert found.sizes.tolist() == [[8, 8]] * 12 and check_sizes(found) == (8, 8)
    assert found.labels is None and found.class_names == ()
    assert check_readable(found) == [] and found.duplicates().number == 0
    if form not in ("edm2", "unpadded"):  # other names, same numbers
        flat = open_set(FORMS["folder"](tmp_path, images))
        assert found.names_sha256 == flat.names_sha256
    other = tmp_path / "other"
    other.mkdir()
    assert open_set(FORMS[form](other, images)).content_sha256 == found.content_sha256
    changed = tmp_path / "changed"
    changed.mkdir()
    assert (
        open_set(FORMS[form](changed, [*images[:11], pixels(99, 8, 8)])).content_sha256
        != found.content_sha256
    )


def test_a_set_is_one_place(tmp_path: Path) -> None:
    place = FORMS["folder"](tmp_path, pictures(2))
    assert open_set([place]).names == open_set(str(place)).names
    with pytest.raises(UserError, match="2 places make no one set; give each by itself, or one pattern"):
        open_set([place, place])
    with pytest.raises(UserError, match="0 places make no one set"):
        open_set([])


def test_order_is_by_number_only_where_all_have_one_of_their_own(tmp_path: Path) -> None:
    raw = [encoded(image) for image in pictures(4)]
    for folder, names, expected, numbers in (
        ("a", ["10.png", "9.png", "0100.png"], ["9.png", "10.png", "0100.png"], ""),
        ("b", ["x10.png", "x9.png", "x11.png"], ["x9.png", "x10.png", "x11.png"], "9-11"),
        ("c", ["x10.png", "y9.png"], ["x10.png", "y9.png"], ""),
        ("d", ["p/2.png", "q/1.png", "q/2.png"], ["p/2.png", "q/1.png", "q/2.png"], ""),
        ("e", ["10.png", "9.png", "z.png"], ["10.png", "9.png", "z.png"], ""),
        ("f", ["q/1.png", "p/2.png"], ["q/1.png", "p/2.png"], "1-2"),
        ("g", ["v1.5", "v1.4"], ["v1.4", "v1.5"], "4-5"),
        ("h", ["1.png", "01.png"], ["01.png", "1.png"], ""),
    ):  # fmt: skip
        found = open_set(write_folder(tmp_path / folder, dict(zip(names, raw, strict=False))))
        assert (list(found.names), found.numbers) == (expected, numbers), folder


def test_a_tar_without_numbers_is_in_the_order_of_a_folder(tmp_path: Path) -> None:
    files = {name: encoded(pixels(index)) for index, name in enumerate(["./c.png", "./a.png", "./b/x.png"])}
    tar = open_set(write_tar(tmp_path / "x.tar", files))
    folder = open_set(write_folder(tmp_path / "x", files))
    assert tar.names_sha256 == folder.names_sha256 and tar.content_sha256 == folder.content_sha256


def test_names_pair_without_folders_unless_that_makes_them_equal(tmp_path: Path) -> None:
    one, two = encoded(pixels(1)), encoded(pixels(2))
    flat = open_set(write_folder(tmp_path / "flat", {"a.png": one, "b.png": two}))
    other = open_set(write_folder(tmp_path / "deep", {"x/a.JPEG": one, "y/b.webp": two}))
    twice = open_set(write_folder(tmp_path / "twice", {"x/a.png": one, "y/a.png": two}))
    again = open_set(write_folder(tmp_path / "again", {"x/a.png": one, "z/a.png": two}))
    assert flat.names_sha256 == other.names_sha256
    assert len({each.names_sha256 for each in (flat, twice, again)}) == 3


def test_rows_of_an_exported_npz_are_named_by_their_seeds(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npz", arr_0=stacked(pictures(3)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"erk-bench export digits-0123 seeds 1000-1002"
    assert open_set(path).numbers == "1000-1002"
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"erk-bench export digits-0123 seeds 1000-1999"  # of other rows
    assert open_set(path).numbers == "0-2"


@pytest.mark.parametrize("kind", KINDS)
def test_class_folders_are_labels(kind: str, tmp_path: Path) -> None:
    names = ["set/n02/a.png", "set/n01/x/a.png", "set/n10/a.png", "set/n01/b.png"]
    found = open_set(write(kind, tmp_path / "x", {name: encoded(pixels(i)) for i, name in enumerate(names)}))
    assert found.class_names == ("n01", "n02", "n10")
    assert found.labels is not None and found.labels.dtype == torch.int64
    by_name = dict(zip(found.names, found.labels.tolist(), strict=True))
    assert by_name == dict(zip(names, [1, 0, 2, 0], strict=True))


def test_folders_of_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    files = {f"{label}/{i}.png": encoded(pixels(label)) for label in (0, 2, 10) for i in (0, 1)}
    found = open_set(write_folder(tmp_path, files))
    assert found.class_names == ("0", "2", "10")
    assert found.labels is not None and found.labels.tolist() == [0, 0, 2, 2, 1, 1]  # the paths' order


@pytest.mark.parametrize("name", ["{0:06d}/{1:06d}.png", "{2:05d}/img{1:08d}.png"])
def test_folders_of_thousands_are_no_classes(name: str, tmp_path: Path) -> None:
    raw = encoded(pixels(1))
    files = {name.format(i - i % 1000, i, i // 1000): raw for i in (0, 999, 1000, 2500)}
    assert open_set(write_folder(tmp_path / "a", files)).labels is None
    moved = {name.format(i - i % 1000, i, i // 1000): raw for i in (0, 999, 1000)} | {"7/2500.png": raw}
    assert open_set(write_folder(tmp_path / "b", moved)).class_names != ()


def test_images_beside_folders_have_no_classes(tmp_path: Path) -> None:
    raw = encoded(pixels(1))
    for folder, names in (("a", ["x/1.png", "2.png"]), ("b", ["x/1.png", "x/2.png"]), ("c", ["1.png"])):
        assert open_set(write_folder(tmp_path / folder, dict.fromkeys(names, raw))).labels is None, folder


@pytest.mark.parametrize("kind", KINDS)
def test_labels_in_cls_files(kind: str, tmp_path: Path) -> None:
    files = {
        f"b/{key}.{end}": raw
        for key, label in (("k1", b" 7\n"), ("k0", b"999"))
        for end, raw in (("seg.png", encoded(pixels(3))), ("cls", label), ("json", b"{}"))
    }
    found = open_set(write(kind, tmp_path / "x", files | {"b/._k0.cls": b"1"}))
    assert list(found.names) == ["b/k0.seg.png", "b/k1.seg.png"] and found.class_names == ()
    assert found.labels is not None and found.labels.tolist() == [999, 7]
    for text in (b"cat", b"", b"-1", b"1.5", b"9" * 40, b"\xff"):
        damaged = open_set(write(kind, tmp_path / "y", files | {"b/k0.cls": text}))
        assert damaged.labels is None, text


def test_labels_of_shards(tmp_path: Path) -> None:
    for shard in range(2):
        both = [(f"{2 * shard + i:03d}", b"%d" % (10 * shard + i)) for i in range(2)]
        files = {f"{key}.cls": label for key, label in both}
        files |= {f"{key}.jpg": encoded(pixels(1), "JPEG") for key, _ in both}
        write_tar(tmp_path / f"x-{shard:03d}.tar", files)
    found = open_set(tmp_path / "x-{000..001}.tar")
    assert found.labels is not None and found.labels.tolist() == [0, 1, 10, 11]
    assert found.numbers == "0-3"
    write_tar(tmp_path / "x-002.tar", {"004.jpg": encoded(pixels(1), "JPEG")})
    assert open_set(tmp_path / "x-*.tar").labels is None  # one has none


def test_class_folders_over_several_archives(tmp_path: Path) -> None:
    """The name of the archive is no class."""
    for index, label in enumerate("ab"):
        write_tar(tmp_path / f"s-{index}.tar", {f"{label}/{i}.png": encoded(pixels(i)) for i in range(2)})
        write_zip(tmp_path / f"z-{index}.zip", {f"{i}.png": encoded(pixels(i)) for i in range(2)})
    found = open_set(tmp_path / "s-*.tar")
    assert found.class_names == ("a", "b") and found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.names[0] == "s-0.tar/a/0.png"
    zipped = open_set(tmp_path / "z-*.zip")
    assert len(zipped) == 4 and zipped.labels is None and zipped.numbers == ""


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_an_edm2_dataset(kind: str, tmp_path: Path) -> None:
    files = pngs(pictures(3), "00000/img{:08d}.png")
    table = json.dumps({"labels": [[name, 5 - i] for i, name in enumerate(files)]}).encode()
    for place, content in (("a", files), ("b", {f"up/{name}": raw for name, raw in files.items()})):
        where = "dataset.json" if place == "a" else "up/dataset.json"
        found = open_set(write(kind, tmp_path / place, content | {where: table}))
        assert found.labels is not None and found.labels.tolist() == [5, 4, 3] and found.numbers == "0-2"
    for text in (b'{"labels": null}', b"{}", b"[]", b'{"labels": [["00000/img00000000.png", 1]]}',
                 b'{"labels": [["00000/img00000000.png", [1, 0]], 3]}'):  # fmt: skip
        assert open_set(write(kind, tmp_path / "c", files | {"dataset.json": text})).labels is None
    for text in (b'{"labels": [[', b"\xff", b""):
        with pytest.raises(UserError, match=r"labels 'dataset\.json' of .* are no readable JSON"):
            open_set(write(kind, tmp_path / "d", files | {"dataset.json": text}))


def test_labels_of_an_npz(tmp_path: Path) -> None:
    images = stacked(pictures(3))
    for dtype in (np.int64, np.uint8, ">i4"):
        found = open_set(saved(tmp_path / "x.npz", arr_0=images, arr_1=np.array([7, 0, 999 % 250], dtype)))
        assert found.labels is not None and found.labels.tolist() == [7, 0, 249]
    for other in (np.zeros(2, np.int64), np.zeros((3, 10), np.int64), np.zeros(3)):
        assert open_set(saved(tmp_path / "x.npz", arr_0=images, arr_1=other)).labels is None
    np.savez(tmp_path / "x.npz", arr_0=images, arr_1=np.array(["a", None, 1], dtype=object))
    assert open_set(tmp_path / "x.npz").labels is None
    reference = saved(tmp_path / "x.npz", arr_0=images, mu=np.zeros(5), sigma=np.eye(5))
    assert len(open_set(reference)) == 3


def test_grey_arrays_get_three_equal_channels(tmp_path: Path) -> None:
    grey = np.arange(3 * 8 * 6, dtype=np.uint8).reshape(3, 8, 6)
    for values in (grey[..., None], grey[:, None]):
        found = open_set(npy(tmp_path / "x.npy", values))
        assert found.sizes.tolist() == [[8, 6]] * 3
        assert np.array_equal(found.pixels(2), np.broadcast_to(grey[2], (3, 8, 6)))


ARRAYS: list[tuple[np.ndarray, str]] = [
    (np.linspace(-1, 1, 2 * 8 * 8 * 3, dtype=np.float32).reshape(2, 8, 8, 3),
     r"is of type float32, values from -1 to 1; images are uint8 from 0 to 255.*astype\('uint8'\)"),
    (np.full((2, 8, 8, 3), np.nan), "is of type float64, values from nan to nan;"),
    (np.full((2, 8, 8, 3), 255, np.int64), "is of type int64, values from 255 to 255;"),
    (np.zeros((2, 8, 8, 3), np.float16), "is of type float16, values from 0 to 0;"),
    (np.zeros((2, 8, 8, 3), bool), "is of type bool, values from 0 to 0;"),
    (np.zeros((2, 8, 8, 3), complex), "is of type complex128; images are"),
    (np.zeros((0, 8, 8, 3), np.float32), "is of type float32; images are"),
    (np.array([{}, []], dtype=object), "holds Python objects, which are pickled and never read"),
    (np.zeros((8, 8, 3), np.uint8), r"has shape \[8, 8, 3\]; expected \[N, H, W, C\].*images\[\.\.\., None"),
    (np.zeros((2, 8, 8, 4), np.uint8), r"has shape \[2, 8, 8, 4\]; expected .* 1 or 3 channels: convert"),
    (np.zeros((2, 0, 8, 3), np.uint8), r"has shape \[2, 0, 8, 3\]"),
    (np.zeros(7, np.uint8), r"has shape \[7\]"),
    (np.zeros((), np.uint8), r"has shape \[\]"),
    (np.zeros((2, 8, 8, 3), [("a", "u1")]), "is of type .*; images are uint8"),
    (np.asfortranarray(pictures(2)), "is in Fortran order.*ascontiguousarray"),
    (np.zeros((0, 8, 8, 3), np.uint8), "has no images"),
]  # fmt: skip


@pytest.mark.parametrize("form", ["npy", "npz", "compressed"])
@pytest.mark.parametrize(("values", "told"), ARRAYS)
def test_arrays_that_are_no_images(values: np.ndarray, told: str, form: str, tmp_path: Path) -> None:
    if form == "npy":
        place = npy(tmp_path / "x.npy", values)
    else:
        place = tmp_path / "x.npz"
        (np.savez if form == "npz" else np.savez_compressed)(place, values)
    with pytest.raises(UserError, match=told):
        open_set(place)


def test_npz_files_without_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds mu, sigma; expected the images as arr_0"):
        open_set(saved(tmp_path / "x.npz", mu=np.zeros(3), sigma=np.eye(3)))
    with pytest.raises(UserError, match="holds nothing; expected the images as arr_0"):
        open_set(write_zip(tmp_path / "y.npz", {}))
    with pytest.raises(UserError, match=r"is no readable array of images \(ValueError: 'a\.png' is no array"):
        open_set(write_zip(tmp_path / "z.npz", {"a.png": encoded(pixels(1))}))
    assert len(open_set(saved(tmp_path / "one.npz", samples=stacked(pictures(2))))) == 2


@pytest.mark.parametrize("form", ["npy", "npz", "compressed"])
def test_truncated_arrays(form: str, tmp_path: Path) -> None:
    place = FORMS[form](tmp_path, pictures(6))
    raw = place.read_bytes()
    for part in (0.0, 0.01, 0.1, 0.5, 0.99):
        place.write_bytes(raw[: int(len(raw) * part)])
        with pytest.raises(UserError, match="it may be truncated: copy it again"):
            open_set(place)


def test_an_array_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    place = FORMS["npy"](tmp_path, pictures(6))
    found = open_set(place)
    os.truncate(place, place.stat().st_size - 10)
    assert found.pixels(4).shape == (3, 8, 8)
    with pytest.raises(UserError, match="cannot read image '000005' of .*the array ends early"):
        found.pixels(5)


def test_a_compressed_array_that_does_not_fit_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = FORMS["compressed"](tmp_path, pictures(6))
    usage = array_images.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(array_images.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(
        UserError, match="is compressed and needs 1,280 bytes in .* set TMPDIR to a larger disk"
    ):
        open_set(place)


def test_arrays_of_one_pattern_have_one_size(tmp_path: Path) -> None:
    npy(tmp_path / "a-0.npy", stacked(pictures(2, 8)))
    npy(tmp_path / "a-1.npy", stacked(pictures(2, 9)))
    with pytest.raises(UserError, match=r"several sizes: 8x8 \('a-0\.npy'\), 9x9 \('a-1\.npy'\)"):
        open_set(tmp_path / "a-*.npy")
    npy(tmp_path / "a-1.npy", stacked(pictures(2, 8)).transpose(0, 3, 1, 2).copy())
    found = open_set(tmp_path / "a-*.npy")
    assert np.array_equal(found.pixels(3).permute(1, 2, 0), pictures(2)[1])
