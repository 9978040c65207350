"""Real images from a folder, a ZIP or WebDataset shards, and their crop to a model's resolution.

The pixels are those that ADM and EDM2 computed their reference statistics from: converted to RGB, with the
EXIF orientation NOT applied (some ImageNet photographs lie on their side), and ADM's centre crop.
"""

from __future__ import annotations

import glob
import io
import os
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from erk_bench.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# 16-bit and float modes are missing: Pillow clips them to white or black when it converts.
EIGHT_BIT_MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
)
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
# What Pillow, zipfile and the file system raise for damaged or unreadable images.
READ_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, MemoryError,
    OverflowError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile, Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class ImageSource:
    """An ordered collection of images; reading is safe from several threads at once.

    place: where it lies, for messages. names: of the images, in order, relative to the place.
    load: the encoded bytes of image `index`.
    """

    place: str
    names: Sequence[str]
    load: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Image.Image:
        """Image `index`, decoded, in mode RGB: grey, palette and CMYK are converted, transparency is dropped,
        EXIF orientation is not applied. Raises UserError, naming the image, for one that cannot be read."""
        name = self.names[index]
        try:
            with Image.open(io.BytesIO(self.load(index))) as image:
                if image.mode in EIGHT_BIT_MODES:
                    return image.convert("RGB")
                mode = image.mode
        except READ_ERRORS as error:
            raise UserError(
                f"cannot read image '{name}' of '{self.place}' ({type(error).__name__}: {error}); copy it "
                "again, or take it out of the set"
            ) from error
        raise UserError(
            f"image '{name}' of '{self.place}' has mode '{mode}', more than 8 bits a channel; convert it to "
            "8 bits"
        )


def open_images(source: Path | str) -> ImageSource:
    """The images of a folder, a .zip, a .tar, or all .tar files that match a pattern such as 'train-*.tar'.

    A folder is searched with its subfolders (linked ones too) and sorted by path, a ZIP is sorted by path;
    shards are sorted by path, and their images keep their order in the shard. Images end in png, jpg, jpeg,
    webp or bmp; everything else, and names that begin with a dot, is skipped. Tar files must not be
    compressed: images are read in any order.
    Raises UserError for a source that is missing, empty, damaged or of another kind.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        images = _folder(path)
    elif path.is_file() and path.suffix == ".zip":
        images = _zip(path)
    elif path.is_file() and (path.suffix in (".tar", ".tgz") or ".tar." in path.name):
        images = _shards(text, [path])
    elif path.is_file():
        raise UserError(
            f"image source '{text}' is a single file; give a folder, a .zip, a .tar or 'NAME-*.tar'"
        )
    elif any(mark in text for mark in "*?["):
        shards = sorted(Path(match) for match in glob.glob(text))  # noqa: PTH207 - text may be absolute
        images = _shards(text, shards)
    else:
        braces = "; braces are not expanded, write * instead" if "{" in text else ""
        raise UserError(f"image source '{text}' does not exist{braces}; check the path")
    if not len(images):
        shard_hint = f"; for shards give '{text}/*.tar'" if path.is_dir() and any(path.glob("*.tar")) else ""
        raise UserError(
            f"image source '{text}' has no images ({', '.join(SUFFIXES)}){shard_hint or '; check the path'}"
        )
    return images


def center_crop(image: Image.Image, resolution: int) -> Tensor:
    """ADM's centre crop (guided-diffusion; "center-crop-dhariwal" in EDM2): RGB image -> uint8 CHW.

    Halved with a box filter while the smaller side is at least twice the resolution, resized with a bicubic
    filter until the smaller side equals it, cropped in the middle. An image that already has the resolution
    passes unchanged; smaller ones are enlarged.
    """
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = resolution / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    pixels = np.array(image)
    top, left = (pixels.shape[0] - resolution) // 2, (pixels.shape[1] - resolution) // 2
    square = pixels[top : top + resolution, left : left + resolution]
    return torch.from_numpy(square.copy()).permute(2, 0, 1).contiguous()


def _is_image(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    # Names with a dot in front: macOS puts "._photo.jpg", which is no image, beside "photo.jpg".
    return base.lower().endswith(SUFFIXES) and not base.startswith(".")


def _folder(folder: Path) -> ImageSource:
    def stop(error: OSError) -> None:
        raise UserError(f"cannot list '{error.filename}': {error.strerror}; check its permissions") from error

    names = []
    for parent, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        for name in folders:
            linked = Path(parent, name)
            if linked.is_symlink() and Path(parent).resolve().is_relative_to(linked.resolve()):
                raise UserError(f"'{linked}' links back to a folder that holds it; remove the link")
        names += [Path(parent, name).relative_to(folder).as_posix() for name in files if _is_image(name)]
    names.sort()
    return ImageSource(str(folder), names, lambda index: (folder / names[index]).read_bytes())


def _zip(path: Path) -> ImageSource:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, RuntimeError, struct.error, zipfile.BadZipFile) as error:
        raise UserError(
            f"'{path}' is no readable ZIP file ({error}); it may be truncated: copy it again"
        ) from error
    members = sorted(
        (member for member in archive.infolist() if _is_image(member.filename)), key=lambda m: m.filename
    )
    lock = threading.Lock()  # a ZipFile counts its open members without one

    def load(index: int) -> bytes:
        with lock:
            return archive.read(members[index])

    return ImageSource(str(path), [member.filename for member in members], load)


class _Region(NamedTuple):
    """Where an image lies in an uncompressed tar file."""

    shard: Path
    offset: int
    size: int


def _shards(place: str, shards: Sequence[Path]) -> ImageSource:
    if not shards:
        raise UserError(f"no file matches '{place}'; check the pattern")
    names: list[str] = []
    regions: list[_Region] = []
    for shard in shards:
        for name, region in _tar_images(shard):
            names.append(name if len(shards) == 1 else f"{shard.name}/{name}")
            regions.append(region)

    def load(index: int) -> bytes:
        shard, offset, size = regions[index]
        with shard.open("rb") as file:  # opened anew: no position is shared, and shards may be thousands
            file.seek(offset)
            return file.read(size)

    return ImageSource(place, names, load)


def _tar_images(shard: Path) -> list[tuple[str, _Region]]:
    """Name and place of the images of one shard, in its order."""
    try:
        with shard.open("rb") as file:
            start = file.read(8)
            length = os.fstat(file.fileno()).st_size
            file.seek(0)
            compression = next((kind for magic, kind in COMPRESSED.items() if start.startswith(magic)), None)
            if compression is None:
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    members = [member for member in archive if _is_image(member.name) and not member.isdir()]
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise UserError(
            f"'{shard}' is no readable tar file ({error}); it may be truncated: copy it again"
        ) from error
    if compression is not None:
        raise UserError(
            f"'{shard}' is compressed with {compression}; single images can be read from uncompressed .tar "
            "files only: decompress it first, and give the .tar, or unpack it and give the folder"
        )
    for member in members:
        if not member.isreg() or member.issparse():
            raise UserError(
                f"'{member.name}' in '{shard}' is a link or no plain file; pack the shard again with "
                "--dereference --hard-dereference"
            )
        if member.offset_data + member.size > length:
            raise UserError(f"'{shard}' ends within '{member.name}'; it is truncated: copy it again")
    return [(member.name, _Region(shard, member.offset_data, member.size)) for member in members]
