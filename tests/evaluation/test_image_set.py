"""Sets of images in every form: one order, the same pixels, names that pair, and clear refusals."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from erk_bench.base.errors import UserError
from erk_bench.evaluation import array_images, decoding
from erk_bench.evaluation.image_set import (
    ChangedError,
    check_readable,
    check_sizes,
    open_set,
    reading_threads,
)
from erk_bench.evaluation.real_images import center_crop, open_images
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


def test_lists(tmp_path: Path) -> None:
    """Paths relative to the list, in its order unless all are numbered; hidden files are asked for."""
    files = {
        "b.png": encoded(pixels(1)),
        "a/.hidden.png": encoded(pixels(2)),
        "with space.png": encoded(pixels(3)),
    }
    write_folder(tmp_path / "x", files)
    lines = ["b.png", "", " a/.hidden.png ", str(tmp_path / "x" / "with space.png"), "b.png"]
    for end, name in (("\n", "l.txt"), ("\r\n", "l.LST"), ("\n", "l.list")):
        found = open_set(save_lines(tmp_path / "x" / name, lines, end))
        assert list(found.names) == [
            "b.png",
            "a/.hidden.png",
            str(tmp_path / "x" / "with space.png"),
            "b.png",
        ]
        assert np.array_equal(found.pixels(1).permute(1, 2, 0), pixels(2))
        assert found.duplicates() == (1, (("b.png", "b.png"),)) and found.labels is None
    (tmp_path / "x" / "bom.txt").write_bytes(b"\xef\xbb\xbfb.png\n")
    assert list(open_set(tmp_path / "x" / "bom.txt").names) == ["b.png"]
    save_lines(tmp_path / "x" / "classes.txt", ["../c/n01/1.png", "../c/n02/1.png"])
    write_folder(tmp_path / "c", {"n01/1.png": files["b.png"], "n02/1.png": files["b.png"]})
    assert open_set(tmp_path / "x" / "classes.txt").class_names == ("n01", "n02")


def test_lists_with_what_is_not_there(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": encoded(pixels(1)), "folder/b.png": encoded(pixels(1))})
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to("loop.png")
    lines = ["a.png", "none.png", "folder", "zero.png", "loop.png", "x\0y.png", "z" * 5000]
    told = (
        r"lists 6 files that are not there, or are no files \(line 2: none\.png, line 3: folder, line 4: zero"
    )
    with pytest.raises(UserError, match=told):
        open_set(save_lines(tmp_path / "x.txt", lines))
    for text in ("", "\n\n"):
        (tmp_path / "x.txt").write_text(text)
        with pytest.raises(UserError, match="has no images"):
            open_set(tmp_path / "x.txt")
    (tmp_path / "x.txt").write_text("a.png\nx.txt\n")  # a text is no image
    with pytest.raises(UserError, match=r"cannot read image 'x\.txt' of .*no image"):
        check_readable(open_set(tmp_path / "x.txt"))
    (tmp_path / "x.txt").write_bytes(b"caf\xe9.png\n")
    with pytest.raises(UserError, match="line 1: caf"):
        open_set(tmp_path / "x.txt")


def test_braces(tmp_path: Path) -> None:
    for index in (0, 1, 2, 10):
        write_zip(tmp_path / f"s-{index}.zip", {f"{index}.png": encoded(pixels(index))})
        write_zip(tmp_path / f"t-{index:02d}.zip", {f"{index}.png": encoded(pixels(index))})
    assert open_set(f"{tmp_path}/s-{{0..2}}.zip").numbers == "0-2"
    assert open_set(f"{tmp_path}/t-{{00..02}}.zip").numbers == "0-2"
    assert len(open_set(f"{tmp_path}/s-1{{0..0}}.z*")) == 1
    with pytest.raises(
        UserError, match=r"1 of 4 files of '.*' do not exist \(.*s-3\.zip\); check the numbers"
    ):
        open_set(f"{tmp_path}/s-{{0..3}}.zip")
    with pytest.raises(UserError, match="0 of 0 files of .* do not exist; check the numbers"):
        open_set(f"{tmp_path}/s-{{3..1}}.zip")
    for many in ("{0..99999999999999999999999}", "{0..5000}{0..5000}"):
        with pytest.raises(UserError, match="stand for more than 1,000,000 files"):
            open_set(f"{tmp_path}/{many}.zip")
    for wrong in ("{a,b}", "{0-3}"):
        with pytest.raises(UserError, match=r"does not exist; braces take two numbers, as in \{000\.\.012\}"):
            open_set(f"{tmp_path}/s-{wrong}.zip")
    (tmp_path / "real{0..1}").mkdir()
    write_folder(tmp_path / "real{0..1}", {"a.png": encoded(pixels(1))})
    assert len(open_set(tmp_path / "real{0..1}")) == 1  # it is there as it is written


def test_patterns_of_folders_and_lists(tmp_path: Path) -> None:
    for name in "ab":
        write_folder(tmp_path / name, {f"{i}.png": encoded(pixels(i)) for i in range(2)})
        save_lines(tmp_path / f"{name}.txt", [f"{name}/1.png", f"{name}/0.png"])
    folders = open_set(tmp_path / "[ab]")
    assert folders.class_names == ("a", "b") and list(folders.names) == [
        "a/0.png",
        "a/1.png",
        "b/0.png",
        "b/1.png",
    ]
    lists = open_set(tmp_path / "*.txt")
    assert list(lists.names) == ["a.txt/a/1.png", "a.txt/a/0.png", "b.txt/b/1.png", "b.txt/b/0.png"]
    with pytest.raises(UserError, match=r"several kinds: 2 folder \('a'\), 2 list of files \('a\.txt'\)"):
        open_set(tmp_path / "*")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_a_name_twice(kind: str, tmp_path: Path) -> None:
    path = write(kind, tmp_path / "x", {"a.png": encoded(pixels(1)), "b.png": encoded(pixels(2))})
    again = write(kind, tmp_path / "y", {"a.png": encoded(pixels(3))})
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("a.png", encoded(pixels(3)))
    else:
        with tarfile.open(path, "a") as archive, tarfile.open(again) as other:
            archive.addfile(other.getmembers()[0], other.extractfile("a.png"))
    with pytest.raises(UserError, match=r"holds 'a\.png' 2 times.*pack it again"):
        open_set(path)


def damaged() -> dict[str, bytes]:
    """Files that are no whole images."""
    rows = pixels(1, 60, 60)
    png, jpeg = encoded(rows), encoded(rows, "JPEG")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    return {
        "cut.png": png[: len(png) // 2], "cut.jpg": jpeg[: len(jpeg) // 2],
        "end.jpg": jpeg[:-400], "empty.png": b"", "empty.jpg": b"", "zeros.png": bytes(5000),
        "text.jpg": b"GIF?", "flipped.png": bytes(flipped), "cut.webp": encoded(rows, "WEBP")[:500],
        "cut.bmp": encoded(rows, "BMP")[:500],
        "float.tif": encoded(Image.fromarray(np.full((60, 60), 7.0, np.float32)), "TIFF"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_images_are_known_when_the_set_is_opened(kind: str, tmp_path: Path) -> None:
    good = {f"good{i}.png": encoded(pixels(i, 60, 60)) for i in range(2)}
    good["end.png"] = good["good0.png"][:-6]  # all pixels are there
    good["jpeg.jpg"] = encoded(pixels(3, 60, 60), "JPEG") + bytes(7)  # zeros behind the end are common
    found = open_set(write(kind, tmp_path / "x", damaged() | good))
    assert {found.names[index] for index in found.unreadable} == set(damaged())
    told = r"image '.*' of '.*'.*; 10 more cannot be read \(.*, \.\.\.\).*skip_unreadable=true leaves"
    with pytest.raises(UserError, match=told):
        check_readable(found)
    assert check_readable(found, skip_unreadable=True) == sorted(found.unreadable)
    assert check_sizes(found) == (60, 60)
    bad = found.names.index("cut.png")
    assert found.sizes[bad].tolist() == [0, 0]
    with pytest.raises(UserError, match=r"cannot read image 'cut\.png'"):
        found.pixels(bad)


def test_whole_images_are_not_decoded_when_the_set_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = {"a.png": "PNG", "b.jpg": "JPEG", "c.webp": "WEBP"}
    write_folder(tmp_path, {name: encoded(pixels(1), form) for name, form in forms.items()})
    decoded: list[bytes] = []
    monkeypatch.setattr(decoding, "decode", lambda raw: decoded.append(raw))
    assert check_readable(open_set(tmp_path)) == []
    assert [raw[:4] for raw in decoded] == [b"RIFF"]


def test_a_set_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    found = open_set(write_folder(tmp_path, {"a.png": b"", "b.png": b"x"}))
    for skip in (False, True):
        with pytest.raises(
            UserError, match=r"none of the 2 images of .* can be read; the first: cannot read image"
        ):
            check_readable(found, skip_unreadable=skip)
    with pytest.raises(UserError, match="none of the 2 images"):
        check_sizes(found)


def test_sizes(tmp_path: Path) -> None:
    files = {f"{i}.png": encoded(pixels(i, 9, 7)) for i in range(5)}
    files |= {"x.png": encoded(pixels(1, 7, 9)), "y.jpg": encoded(pixels(1, 20, 30), "JPEG"), "z.png": b""}
    found = open_set(write_folder(tmp_path, files))
    assert found.sizes.tolist() == [[7, 9]] * 5 + [[9, 7], [30, 20], [0, 0]]
    told = (
        r"several sizes: 5 of 7x9 \(height x width; 0\.png, 1\.png, 2\.png, \.\.\.\), 1 of 9x7 .*, "
        r"1 of 30x20 .*; give resolution=N to crop and resize each to N x N as ADM does"
    )
    with pytest.raises(UserError, match=told):
        check_sizes(found)
    cropped = open_set(tmp_path, resolution=6)
    assert check_sizes(cropped) == (6, 6)
    for index in range(7):
        assert torch.equal(cropped.pixels(index), center_crop(open_images(tmp_path).read(index), 6))
    assert open_set(tmp_path, resolution=9).pixels(0).shape == (3, 9, 9)


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_arrays_are_cropped_too(form: str, tmp_path: Path) -> None:
    images = pictures(3, 12)
    found = open_set(FORMS[form](tmp_path, images), resolution=5)
    assert torch.equal(found.pixels(2), center_crop(Image.fromarray(images[2]), 5))
    same = open_set(FORMS[form](tmp_path, images), resolution=12)
    assert np.array_equal(same.pixels(1).permute(1, 2, 0), images[1])


def test_duplicates(tmp_path: Path) -> None:
    raw = [encoded(pixels(i)) for i in range(3)]
    files = {f"{name}.png": raw[index] for name, index in zip("abcdef", (0, 1, 0, 0, 2, 1), strict=True)}
    found = open_set(write_folder(tmp_path, files | {"x.png": b"", "y.png": b""}))
    assert found.duplicates() == (3, (("c.png", "a.png"), ("d.png", "a.png"), ("f.png", "b.png")))
    rows = npy(tmp_path / "x.npy", np.zeros((60, 8, 8, 3), np.uint8))
    assert open_set(rows).duplicates() == (
        59,
        (("000001", "000000"), ("000002", "000000"), ("000003", "000000")),
    )


def test_content_knows_names_and_order(tmp_path: Path) -> None:
    one, two = encoded(pixels(1)), encoded(pixels(2))
    sets = [{"a.png": one, "b.png": two}, {"a.png": two, "b.png": one}, {"a.png": one, "c.png": two}]
    found = {open_set(write_folder(tmp_path / str(i), files)).content_sha256 for i, files in enumerate(sets)}
    assert len(found) == 3


CHANGES: dict[str, Callable[[Path], Any]] = {
    "replaced": lambda path: path.write_bytes(encoded(pixels(9, 8, 8))),
    "truncated": lambda path: os.truncate(path, 60),
    "removed": lambda path: path.unlink(),
    "renamed over": lambda path: (path.parent / "000001.png").replace(path),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_set_that_changes_while_it_is_read(change: str, tmp_path: Path) -> None:
    place = FORMS["folder"](tmp_path, pictures(4))
    found = open_set(place, cache=tmp_path / "cache")
    CHANGES[change](place / "000002.png")
    assert found.pixels(3).shape == (3, 8, 8)
    with pytest.raises(
        ChangedError, match=r"image '000002\.png' of .*: the set changes while it is read; run the"
    ):
        found.pixels(2)
    assert not list((tmp_path / "cache").iterdir())  # nothing is believed any more


@pytest.mark.parametrize("form", ["zip", "tar", "npy", "npz", "compressed"])
def test_an_archive_that_changes_while_it_is_read(form: str, tmp_path: Path) -> None:
    place = FORMS[form](tmp_path, pictures(4, 64))
    found = open_set(place)
    other = tmp_path / "other"
    other.mkdir()
    place.write_bytes(FORMS[form](other, [pixels(i + 50, 64, 64) for i in range(4)]).read_bytes())
    if form == "compressed":  # it was expanded before
        assert np.array_equal(found.pixels(2).permute(1, 2, 0), pictures(4, 64)[2])
    else:
        with pytest.raises(ChangedError, match="image '000002.*: the set changes while it is read"):
            found.pixels(2)


def test_threads() -> None:
    assert reading_threads(1) >= reading_threads(2) >= reading_threads(10_000) == 1


@pytest.mark.parametrize("form", ["folder", "npz", "zip"])
def test_many_threads_read_what_one_reads(form: str, tmp_path: Path) -> None:
    images = pictures(40, 16)
    found = open_set(FORMS[form](tmp_path, images), threads=8)
    with ThreadPoolExecutor(8) as pool:
        for index, row in enumerate(pool.map(found.pixels, list(range(40)) * 3)):
            assert np.array_equal(row.permute(1, 2, 0), images[index % 40])


@pytest.mark.parametrize("place", ["x" * 5000, "a\0b", "x" * 5000 + "*{0..1}"])
def test_places_that_cannot_be(place: str) -> None:
    with pytest.raises(UserError, match="image source .* cannot be opened|does not exist|no file matches"):
        open_set(place)


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_broken_bytes(kind: str, tmp_path: Path) -> None:
    """A set is opened and hashed whatever its files are called."""
    name = "caf\udce9-\u202e.png" if kind != "zip" else "caf\xe9-\u202e.png"
    place = write(kind, tmp_path / "x", {name: encoded(pixels(1)), "b.png": b""})
    found = open_set(place, cache=tmp_path / "cache")
    assert len(found.content_sha256) == len(found.names_sha256) == 64
    with pytest.raises(UserError) as caught:
        check_readable(found)
    assert str(caught.value).isprintable()
    assert open_set(place, cache=tmp_path / "cache").content_sha256 == found.content_sha256
