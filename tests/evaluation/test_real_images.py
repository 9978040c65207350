"""Folders, ZIP files and shards give the same images in a known order; ADM's centre crop."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from erk_bench.errors import UserError
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
    with pytest.raises(UserError, match="braces are not expanded"):
        open_images(tmp_path / "set-{000..002}.tar")
    with pytest.raises(UserError, match=r"notes\.txt' is no readable tar file"):
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


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((4, 4), 40000, np.uint16))
    source = open_images(write_folder(tmp_path, {"deep.png": encoded(deep)}))
    with pytest.raises(UserError, match="'deep.png' of .* has mode 'I;16'.*convert it to 8 bits"):
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
@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz"])
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


def test_odd_sizes_give_the_resolution() -> None:
    for width, height in [(500, 375), (375, 500), (33, 1), (1, 1), (97, 4000), (511, 513)]:
        for resolution in (8, 64):
            image = Image.fromarray(pixels(1, width, height))
            assert center_crop(image, resolution).shape == (3, resolution, resolution)
