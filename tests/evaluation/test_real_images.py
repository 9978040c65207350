"""Folders, ZIP files and shards give the same images in a known order; ADM's centre crop."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import socket
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from erk_bench.base.errors import UserError
from erk_bench.evaluation import containers, decoding, real_images
from erk_bench.evaluation.real_images import center_crop, open_images


def pixels(seed: int, width: int = 9, height: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, form, **options)
    return buffer.getvalue()


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, raw in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return path


NAMES = ["b/2.png", "b/10.JPEG", "a.webp", "c.bmp", "a/z.jpg"]
SORTED = ["a.webp", "a/z.jpg", "b/10.JPEG", "b/2.png", "c.bmp"]


def few_files() -> dict[str, bytes]:
    """Images of every format, and files that are none."""
    forms = {".png": "PNG", ".JPEG": "JPEG", ".jpg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
    files = {name: encoded(pixels(i), forms[Path(name).suffix]) for i, name in enumerate(NAMES)}
    return files | {
        "b/2.cls": b"3",
        "b/2.json": b"{}",
        "README": b"",
        "b/._2.png": b"\x00",
        "b/.png": b"",
    }


def write(kind: str, folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    writers = {"folder": write_folder, "zip": write_zip, "tar": write_tar}
    return writers[kind](folder if kind == "folder" else folder / f"set.{kind}", files)


KINDS = ("folder", "zip", "tar")


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_content(kind: str, tmp_path: Path) -> None:
    files = few_files()
    for source in (
        write(kind, tmp_path / "x", files),
        str(tmp_path / "x" / ("" if kind == "folder" else f"set.{kind}")),
    ):
        images = open_images(source)
        assert list(images.names) == (NAMES if kind == "tar" else SORTED)
        assert len(images) == 5
        for index, name in enumerate(images.names):
            found = images.read(index)
            assert found.mode == "RGB"
            assert np.array_equal(found, Image.open(io.BytesIO(files[name])).convert("RGB"))
    assert np.array_equal(images.read(images.names.index("b/2.png")), pixels(0))


def test_shards(tmp_path: Path) -> None:
    for shard in (2, 0, 1):
        write_tar(
            tmp_path / f"set-{shard:03d}.tar",
            {f"{i}.{end}": encoded(pixels(10 * shard + i)) for i in (1, 0) for end in ("png", "cls")},
        )
    (tmp_path / "notes.txt").write_text("")
    images = open_images(tmp_path / "set-*.tar")
    assert list(images.names) == [f"set-{shard:03d}.tar/{i}.png" for shard in range(3) for i in (1, 0)]
    assert np.array_equal(images.read(3), pixels(10))
    assert len(open_images(f"{tmp_path}/set-00[02].tar")) == 4
    with pytest.raises(UserError, match=r"no images \(\.png.*for shards give '.*/\*\.tar'"):
        open_images(tmp_path)
    with pytest.raises(UserError, match="no file matches"):
        open_images(tmp_path / "nothing-*.tar")
    assert open_images(tmp_path / "set-{000..002}.tar").names == images.names
    with pytest.raises(UserError, match=r"several kinds: 1 list of files \('notes\.txt'\), 3 tar file"):
        open_images(tmp_path / "*")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_threads_read_what_one_reads(kind: str, tmp_path: Path) -> None:
    images = open_images(
        write(kind, tmp_path, {f"{i:03d}.png": encoded(pixels(i, 40, 40)) for i in range(60)})
    )
    order = list(range(60)) * 5
    random.Random(0).shuffle(order)
    with ThreadPoolExecutor(8) as pool:
        for index, found in zip(order, pool.map(images.read, order), strict=True):
            assert np.array_equal(found, pixels(index, 40, 40))


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    write_folder(tmp_path / "store", {"n01/a.png": encoded(pixels(1)), "n02/b.png": encoded(pixels(2))})
    subset = tmp_path / "subset"
    (subset / "deep").mkdir(parents=True)
    (subset / "deep" / "n02").symlink_to(tmp_path / "store" / "n02")
    (subset / "a.png").symlink_to(tmp_path / "store" / "n01" / "a.png")
    images = open_images(subset)
    assert list(images.names) == ["a.png", "deep/n02/b.png"]
    assert np.array_equal(images.read(1), pixels(2))
    (subset / "deep" / "again").symlink_to(subset)
    with pytest.raises(UserError, match="deep/again' links back"):
        open_images(subset)


def test_modes(tmp_path: Path) -> None:
    colour = Image.fromarray(pixels(3))
    images = {
        "1": colour.convert("1"),
        "L": colour.convert("L"),
        "LA": colour.convert("LA"),
        "P": colour.quantize(8),
        "RGBA": colour.convert("RGBA"),
        "CMYK": colour.convert("CMYK"),
    }
    images["RGBA"].putalpha(7)
    files = {
        f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}": encoded(image, "JPEG" if mode == "CMYK" else "PNG")
        for mode, image in images.items()
    }
    source = open_images(write_folder(tmp_path, files))
    for index, name in enumerate(source.names):
        mode = name.split(".")[0]
        stored = Image.open(io.BytesIO(files[name]))
        assert stored.mode == mode
        found = source.read(index)
        assert found.mode == "RGB"
        assert np.array_equal(found, stored.convert("RGB"))
    grey = np.asarray(source.read(source.names.index("L.png")))
    assert np.array_equal(grey[..., 0], grey[..., 2])
    assert np.array_equal(grey[..., 0], images["L"])
    assert np.array_equal(source.read(source.names.index("RGBA.png")), colour)


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(4, 12, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    source = open_images(write_folder(tmp_path, {"a.png": encoded(image, exif=exif)}))
    assert Image.open(tmp_path / "a.png").getexif()[0x0112] == 6
    assert np.array_equal(source.read(0), image)


def greys(top: int, dtype: Any) -> np.ndarray:
    """Every 8-bit grey's own value in 0 .. top, and what lies between, [3, 256]."""
    exact = np.arange(256) / 255 * top
    return np.stack([exact.round(), np.minimum(exact.round() + top // 600, top), exact // 1]).astype(dtype)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm", "x.jp2"])
def test_sixteen_bit_grey_is_scaled(name: str, tmp_path: Path) -> None:
    """Pillow's own conversion makes everything above 255 white."""
    values = greys(65535, np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    assert Image.open(tmp_path / name).mode.startswith("I")
    found = np.asarray(open_images(tmp_path).read(0))
    assert np.array_equal(found[..., 0], np.round(values / 257)) and np.array_equal(
        found[0, :, 2], range(256)
    )


def write_tiff(
    path: Path, words: bytes, shape: tuple[int, int], bits: int, photometric: int, order: str
) -> None:
    """A grey TIFF of one strip, with samples of `bits` in the bytes `words`. order: of bytes, '<' or '>'."""
    tags = ((256, shape[1]), (257, shape[0]), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1),
            (278, shape[0]))  # fmt: skip
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    size = struct.pack(f"{order}HHII", 279, 4, 1, len(words))
    directory = struct.pack(f"{order}H", len(tags) + 1) + entries + size + bytes(4)
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(words))
    path.write_bytes(start + words + directory)


@pytest.mark.parametrize(("order", "photometric"), [("<", 1), (">", 1), ("<", 0)])
def test_tiff_of_either_byte_order_and_of_inverted_grey(order: str, photometric: int, tmp_path: Path) -> None:
    values = greys(65535, np.uint16)
    write_tiff(
        tmp_path / "x.tif", values.astype(f"{order}u2").tobytes(), values.shape, 16, photometric, order
    )
    found = np.asarray(open_images(tmp_path).read(0))[..., 0]
    expected = np.round(values / 257)
    assert np.array_equal(found, expected if photometric else 255 - expected)


def test_twelve_bit_tiff_is_scaled(tmp_path: Path) -> None:
    values = greys(4095, np.uint16)
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 4:]
    write_tiff(tmp_path / "x.tif", np.packbits(bits).tobytes(), values.shape, 12, 1, "<")
    assert np.array_equal(np.asarray(open_images(tmp_path).read(0))[..., 0], np.round(values / 4095 * 255))


def test_floats_from_0_to_1_are_scaled_others_refused(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32)[None]
    images = {"a": values, "b": values * 255, "c": values - 1, "d": values * np.nan}
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / f"{name}.tif")
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(tmp_path / "e.tif")
    source = open_images(tmp_path)
    assert np.array_equal(np.asarray(source.read(0))[0, :, 1], range(256))
    for index, told in (
        (1, "values from 0 to 255"),
        (2, "values from -1 to 0"),
        (3, "values from nan to nan"),
        (4, "mode 'I'"),
    ):
        with pytest.raises(UserError, match=rf"image '[b-e]\.tif' of .* has {told}.*convert it to 8 bits"):
            source.read(index)


def test_palette_with_transparency_is_converted_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(3)).quantize(8)
    image.save(tmp_path / "a.png", transparency=bytes(range(8)))
    image.save(tmp_path / "b.gif", transparency=3)
    source = open_images(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in range(2):
            assert np.array_equal(source.read(index), image.convert("RGB"))


@pytest.mark.parametrize("kind", ["zTXt", "tEXt", "iTXt", "icc"])
def test_long_png_texts_and_profiles(kind: str, tmp_path: Path) -> None:
    text, long = PngInfo(), "x" * 3_000_000
    options: dict[str, Any] = {"icc_profile": long.encode()} if kind == "icc" else {}
    if kind in ("zTXt", "tEXt"):
        text.add_text("prompt", long, zip=kind == "zTXt")
    elif kind == "iTXt":
        text.add_itxt("prompt", long, zip=True)
    Image.fromarray(pixels(5)).save(tmp_path / "a.png", pnginfo=text, **options)
    assert np.array_equal(open_images(tmp_path).read(0), pixels(5))


FORMATS = {
    "a.tiff": "TIFF", "b.tif": "TIFF", "c.gif": "GIF", "d.jpe": "JPEG", "e.jfif": "JPEG", "f.ppm": "PPM",
    "g.jp2": "JPEG2000", "h.avif": "AVIF", "i.png": "PNG", "j.JPG": "JPEG", "k.WebP": "WEBP", "l.tga": "TGA",
    "m.pcx": "PCX", "n.ico": "ICO", "o.qoi": "QOI", "p.sgi": "SGI", "q.dds": "DDS", "r.apng": "PNG",
    "s": "PNG", "t.dat": "JPEG", "u.image": "TIFF", "v.0001": "WEBP",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_pillow_opens_is_an_image(kind: str, tmp_path: Path) -> None:
    """By its ending, or by its content; what is neither is counted and named."""
    files = {
        f"sub/{name}": encoded(pixels(i, 16, 16), form) for i, (name, form) in enumerate(FORMATS.items())
    }
    others = {"notes.txt": b"P6 is a format", "BMW": b"BMW is no bitmap", "bad": b"\x89PNG\r\n\x1a\nbut none"}
    source = open_images(write(kind, tmp_path / "x", files | others | {"labels.json": b"{}"}))
    assert sorted(source.names) == sorted(files)
    for index, name in enumerate(source.names):
        expected = Image.open(io.BytesIO(files[name])).convert("RGB")
        assert np.array_equal(source.read(index), expected)
    assert source.remark.startswith("4 files are left out of '")
    assert "4 no image that Pillow opens (" in source.remark and ", ...)" in source.remark
    assert sorted(source.left_out["no image that Pillow opens"].names) == sorted([*others, "labels.json"])


def test_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.fromarray(pixels(i)).quantize(32) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    colours = [frame.convert("RGB") for frame in frames]
    for name in ("b.tif", "c.webp", "d.png"):
        options = {"lossless": True} if name == "c.webp" else {}
        colours[0].save(tmp_path / name, save_all=True, append_images=colours[1:], **options)
    source = open_images(tmp_path)
    for index in range(4):
        assert np.array_equal(source.read(index), colours[0])


HIDDEN = [
    ".ipynb_checkpoints/a.png", "n01/.Trash-1000/files/a.png", "n01/@eaDir/a.png", "n01/x/.thumbnails/a.png",
    "__MACOSX/n01/._a.png", "n01/._a.png", ".a.png", "lost+found/a.png", "n01/$RECYCLE.BIN/a.png",
    "Thumbs.db", "n01/.DS_Store", "n01/@EADIR/b.png",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_and_system_files_are_left_out(kind: str, tmp_path: Path) -> None:
    image = encoded(pixels(1))
    files = {"n01/a.png": image, "n01/x/b.png": image, "@home/c..png": image}
    place = tmp_path / ".data"  # hidden itself, and asked for
    source = open_images(write(kind, place, files | dict.fromkeys(HIDDEN, image)))
    assert sorted(source.names) == sorted(files)
    assert source.left_out["hidden"].number == len(HIDDEN)
    assert source.remark.startswith(f"{len(HIDDEN)} files are left out of '{place}")
    assert open_images(write_folder(tmp_path / "in" / ".thumbnails", files)).remark == ""


def test_labels_of_many_shards_are_counted_and_few_are_named(tmp_path: Path) -> None:
    files = {f"{i:03d}.{end}": encoded(pixels(i)) for i in range(15) for end in ("png", "cls", "json")}
    for shard in "ab":
        write_tar(tmp_path / f"{shard}.tar", files)
    source = open_images(tmp_path / "*.tar")
    assert len(source) == 30 and source.num_left_out == 60
    assert len(source.left_out["no image that Pillow opens"].names) == 20
    assert (
        "60 no image that Pillow opens (a.tar/000.cls, a.tar/000.json, a.tar/001.cls, ...)" in source.remark
    )


def test_names_of_a_tar_may_begin_with_a_dot_and_a_slash(tmp_path: Path) -> None:
    image = encoded(pixels(1))
    source = open_images(write_tar(tmp_path / "x.tar", {"./a.png": image, "./.b/c.png": image}))
    assert list(source.names) == ["./a.png"] and source.left_out == {"hidden": (1, ("./.b/",))}


def test_only_regular_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would never end, or is not there, is left out and named."""
    write_folder(tmp_path / "x", {"a.png": encoded(pixels(1)), "folder.png/b.png": encoded(pixels(2))})
    x = tmp_path / "x"
    os.mkfifo(x / "fifo.png")
    os.mkfifo(x / "fifo")
    (x / "zero.png").symlink_to("/dev/zero")
    (x / "zero").symlink_to("/dev/zero")
    (x / "gone.png").symlink_to(x / "nothing.png")
    (x / "loop.png").symlink_to(x / "loop.png")
    (x / "link.png").symlink_to(x / "a.png")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(x)  # the names of sockets are short
        server.bind("socket.png")
    source = open_images(x)
    assert list(source.names) == ["a.png", "folder.png/b.png", "link.png"]
    others = ("fifo", "fifo.png", "gone.png", "loop.png", "socket.png", "zero", "zero.png")
    assert source.left_out == {"no regular file": (7, others)}
    for place in (x / "fifo", x / "zero"):
        with pytest.raises(UserError, match="is no regular file"):
            open_images(place)
    (x / "shard-0.tar").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"shard-0\.tar' is no regular file"):
        open_images(x / "shard-*.tar")


def test_links_that_are_no_images_in_a_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.png": encoded(pixels(1))})
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("b.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "a.png")
        archive.mkdir("folder.png")
    source = open_images(path)
    assert list(source.names) == ["a.png"] and source.left_out == {"no regular file": (1, ("b.png",))}


def test_folders_that_link_to_each_other(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a/1.png": encoded(pixels(1)), "b/2.png": encoded(pixels(2))})
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b")
    assert len(open_images(tmp_path)) == 3
    (tmp_path / "b" / "link").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="links back to a folder that holds it; remove the link"):
        open_images(tmp_path)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "up").symlink_to(tmp_path.parent)
    with pytest.raises(UserError, match="c/up' links back"):
        open_images(tmp_path / "c")


@pytest.mark.parametrize("name", ["x.ZIP", "x.Zip", "x.TAR", "x.tar", "pictures", "x.dat"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_by_ending_or_content(kind: str, name: str, tmp_path: Path) -> None:
    other = {"zip": "tar", "tar": "zip"}[kind]
    if name.lower().endswith(other):
        return
    writer = {"zip": write_zip, "tar": write_tar}[kind]
    assert list(open_images(writer(tmp_path / name, {"a.TIF": encoded(pixels(1), "TIFF")})).names) == [
        "a.TIF"
    ]


def test_the_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "set", {"a.png": encoded(pixels(1))})
    write_tar(tmp_path / "s-0.tar", {"a.png": encoded(pixels(1))})
    for source in ("~/set", "~/s-*.tar", "~/s-0.tar", Path("~/set")):
        assert len(open_images(source)) == 1


def test_a_name_with_escapes_is_made_visible(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a\x1b[31m\n.png": b"none", "b\x1b": b"none"})
    (tmp_path / os.fsdecode(b"c\xff.txt")).write_bytes(b"")
    source = open_images(tmp_path)
    with pytest.raises(UserError) as caught:
        source.read(0)
    for line in (str(caught.value), source.remark):
        assert line.isprintable() and line.encode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_too_large_for_an_image(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_images(write(kind, tmp_path / "x", {"a.png": encoded(pixels(1))}))
    monkeypatch.setattr(containers, "MOST_BYTES", 50)
    with pytest.raises(UserError, match=r"cannot read image 'a\.png'.*50 are the most that is read"):
        source.read(0)


def test_a_decompression_bomb_is_named(tmp_path: Path) -> None:
    raw = bytearray(encoded(pixels(1)))
    raw[16:24] = struct.pack(">II", 30000, 30000)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    source = open_images(write_folder(tmp_path, {"bomb.png": bytes(raw)}))
    with pytest.raises(UserError, match=r"cannot read image 'bomb\.png'.*900000000 pixels"):
        source.read(0)


def test_a_format_that_pillow_was_built_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_images(write_folder(tmp_path, {"a.avif": b"something"}))
    monkeypatch.setattr(decoding.features, "check", lambda name: name != "avif")
    with pytest.raises(UserError, match="this Pillow .* was built without AVIF: install one"):
        source.read(0)


@pytest.mark.parametrize("damage", ["truncated", "nonsense", "empty"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_corrupt_image_is_named(kind: str, damage: str, tmp_path: Path) -> None:
    whole = encoded(pixels(1, 60, 60))
    broken = {"truncated": whole[:3000], "nonsense": b"nonsense", "empty": b""}[damage]
    source = open_images(write(kind, tmp_path / "x", {"0.png": whole, "sub/1.png": broken, "2.png": whole}))
    bad = source.names.index("sub/1.png")
    with pytest.raises(UserError, match=r"cannot read image 'sub/1\.png' of '.*take it out"):
        source.read(bad)
    assert source.read(bad - 1).size == (60, 60)


def test_an_image_that_vanished_is_named(tmp_path: Path) -> None:
    source = open_images(write_folder(tmp_path, {"a.png": encoded(pixels(1))}))
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="cannot read image 'a.png'.*FileNotFoundError"):
        source.read(0)


def test_a_damaged_zip_member_is_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.png": encoded(pixels(1, 60, 60))})
    raw = bytearray(path.read_bytes())
    raw[2000] ^= 255
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"cannot read image 'a\.png'"):
        open_images(path).read(0)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
def test_flipped_bytes_end_in_an_image_or_one_error(form: str, tmp_path: Path) -> None:
    rng = random.Random(5)
    raw = encoded(pixels(1, 30, 30), form)
    files = {}
    for index in range(100):
        damaged = bytearray(raw)
        damaged[rng.randrange(80) if index % 2 else rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        files[f"{index:03d}.{form.lower()}"] = bytes(damaged)
    source = open_images(write_folder(tmp_path, files))
    refused = 0
    for index in range(len(source)):
        try:
            assert source.read(index).mode == "RGB"
        except UserError:
            refused += 1
    assert refused > 5


@pytest.mark.parametrize("kind", KINDS)
def test_empty_sources(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no images"):
        open_images(write(kind, tmp_path / "x", {"labels.json": b"{}"}))


def test_other_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; check the path"):
        open_images(tmp_path / "none")
    (tmp_path / "a.png").write_bytes(encoded(pixels(1)))
    with pytest.raises(UserError, match=r"a\.png' is a single file; give a folder"):
        open_images(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("kind", "compress"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz", "x.TGZ", "x.Tar.GZ"])
def test_compressed_shards(name: str, kind: str, compress: Any, tmp_path: Path) -> None:
    raw = write_tar(tmp_path / "plain.tar", {"a.png": encoded(pixels(1))}).read_bytes()
    (tmp_path / name).write_bytes(compress(raw))
    with pytest.raises(UserError, match=f"'.*{name}' is compressed with {kind}.*decompress it first"):
        open_images(tmp_path / name)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_truncated_archives(kind: str, tmp_path: Path) -> None:
    path = write(kind, tmp_path / "x", {f"{i}.png": encoded(pixels(i, 50, 50)) for i in range(4)})
    raw = path.read_bytes()
    for part in (0.0, 0.1, 0.35, 0.5):
        path.write_bytes(raw[: int(len(raw) * part)])
        with pytest.raises(UserError, match=r"truncated: copy it again"):
            open_images(path)


def test_a_shard_cut_within_its_only_image(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": encoded(pixels(1, 50, 50))})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="truncated: copy it again"):
        open_images(path)


def test_links_in_shards_are_refused(tmp_path: Path) -> None:
    for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            member = tarfile.TarInfo("b.png")
            member.type, member.linkname = kind, "a.png"
            archive.addfile(member)
        with pytest.raises(UserError, match=r"'b\.png' in '.*x\.tar' is a link"):
            open_images(tmp_path / "x.tar")


@pytest.mark.parametrize("resolution", [1, 7, 16, 64])
def test_an_image_of_the_resolution_passes_unchanged(resolution: int) -> None:
    original = pixels(1, resolution, resolution)
    found = center_crop(Image.fromarray(original), resolution)
    assert found.dtype == torch.uint8 and found.is_contiguous()
    assert np.array_equal(found.permute(1, 2, 0), original)


@pytest.mark.parametrize(("extra", "offset"), [(0, 0), (1, 0), (2, 1), (3, 1), (15, 7)])
@pytest.mark.parametrize("wide", [True, False])
def test_the_middle_is_cropped(wide: bool, extra: int, offset: int) -> None:
    original = pixels(2, 16 + extra * wide, 16 + extra * (not wide))
    found = center_crop(Image.fromarray(original), 16).permute(1, 2, 0)
    top, left = (0, offset) if wide else (offset, 0)
    assert np.array_equal(found, original[top : top + 16, left : left + 16])


def halved(values: np.ndarray) -> np.ndarray:
    """Means of two columns, then of two rows, each rounded half up: Pillow filters the axes one by one."""
    wide = values.astype(int)
    rows = (wide[:, ::2] + wide[:, 1::2] + 1) // 2
    return (rows[::2] + rows[1::2] + 1) // 2


def smooth(width: int, height: int) -> np.ndarray:
    """An image with detail at every scale, but no values that a cubic filter overshoots past 0 or 255."""
    coarse = torch.from_numpy(pixels(5, width // 8, height // 8)).permute(2, 0, 1)[None].float()
    large = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") * 0.5 + 60
    return large[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def test_powers_of_two_are_box_means() -> None:
    original = smooth(64, 64)
    found = center_crop(Image.fromarray(original), 16).permute(1, 2, 0)
    assert np.array_equal(found, halved(halved(original)))


@pytest.mark.parametrize(
    ("size", "resolution", "num_halvings", "resized", "left"),
    [
        ((512, 384), 64, 2, (85, 64), 10),
        ((256, 192), 64, 1, (85, 64), 10),
        ((160, 120), 64, 0, (85, 64), 10),
        ((128, 128), 64, 1, (64, 64), 0),
        ((40, 32), 64, 0, (80, 64), 8),
    ],
)
def test_box_then_bicubic_then_crop(
    size: tuple[int, int], resolution: int, num_halvings: int, resized: tuple[int, int], left: int
) -> None:
    """Against means in integers and torch's antialiased bicubic filter, which has Pillow's coefficients."""
    original = smooth(*size)
    expected = original
    for _ in range(num_halvings):
        expected = halved(expected)
    values = torch.from_numpy(expected.astype(np.float32)).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(values, resized[::-1], mode="bicubic", antialias=True)
    wanted = small[0, :, :, left : left + resolution].round().clip(0, 255)
    found = center_crop(Image.fromarray(original), resolution)
    assert found.shape == (3, resolution, resolution)
    assert (found - wanted).abs().max() <= 1
    assert (found - wanted).abs().mean() < 0.3


def test_a_long_and_thin_image_is_cropped_before_it_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 x 30000 pixels enlarged to 512 x 7,680,000 would take 12 GB."""
    sizes = []
    resize = Image.Image.resize

    def recorded(self: Image.Image, size: tuple[int, int], *args: Any, **options: Any) -> Image.Image:
        sizes.append(size[0] * size[1])
        return resize(self, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    for width, height in ((2, 30000), (30000, 2), (1, 60000)):
        assert center_crop(Image.fromarray(pixels(1, width, height)), 512).shape == (3, 512, 512)
    assert max(sizes) <= 512 * 512


@pytest.mark.parametrize("size", [(3, 400), (400, 3), (1, 90), (31, 2000), (1999, 17), (5, 333)])
@pytest.mark.parametrize("resolution", [32, 50])
def test_cropped_before_or_after_is_the_same(
    size: tuple[int, int], resolution: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(pixels(3, *size))
    after = center_crop(image, resolution)
    monkeypatch.setattr(real_images, "MOST_PIXELS", 0)
    before = center_crop(image, resolution)
    gap = (before.int() - after.int()).abs()
    assert gap.max() <= 1 and (gap > 0).float().mean() < 0.002


def plain_crop(image: Image.Image, resolution: int) -> np.ndarray:
    """ADM's crop in its own order: halve, enlarge or shrink the whole image, cut out the middle."""
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = resolution / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
    return np.asarray(image)[top : top + resolution, left : left + resolution]


def test_ordinary_images_are_cropped_as_ever() -> None:
    rng = random.Random(4)
    for _ in range(60):
        image = Image.fromarray(pixels(rng.randrange(1000), rng.randint(5, 300), rng.randint(5, 300)))
        resolution = rng.choice([8, 32, 64, 100])
        found = center_crop(image, resolution).permute(1, 2, 0)
        assert np.array_equal(found, plain_crop(image, resolution))


def test_odd_sizes_give_the_resolution() -> None:
    for width, height in [(500, 375), (375, 500), (33, 1), (1, 1), (97, 4000), (511, 513)]:
        for resolution in (8, 64):
            image = Image.fromarray(pixels(1, width, height))
            assert center_crop(image, resolution).shape == (3, resolution, resolution)
