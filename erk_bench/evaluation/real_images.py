"""Real images from a folder, a ZIP or WebDataset shards, and their crop to a model's resolution.

The pixels are those that ADM and EDM2 computed their reference statistics from: converted to RGB, with the
EXIF orientation NOT applied (some ImageNet photographs lie on their side), and ADM's centre crop.
"""

from __future__ import annotations

import glob
import hashlib
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.containers import (
    Region,
    folder_entries,
    open_zip,
    read_file,
    read_region,
    tar_entries,
)
from erk_bench.evaluation.decoding import READ_ERRORS, decode, lacking
from erk_bench.evaluation.image_files import Chosen, LeftOut, Where, choose, summary, visible

MOST_PIXELS = 1 << 25  # of an enlarged image that is cropped afterwards, not before
MARGIN = 4  # pixels that a bicubic filter may look at beyond the middle; it takes two


@dataclass(frozen=True)
class ImageSource:
    """An ordered collection of images; reading is safe from several threads at once.

    place: where it lies, for messages. names: of the images, in order, relative to the place.
    load: the encoded bytes of image `index`. stamps: for each image numbers that change with its content, and
    may change without it (size, time, ...). left_out: the files that are not of the set, by reason.
    """

    place: str
    names: Sequence[str]
    load: Callable[[int], bytes]
    stamps: Sequence[tuple[int, ...]] = ()
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def remark(self) -> str:
        """One line that counts what was left out and names the first few; empty if nothing was."""
        if not self.num_left_out:
            return ""
        files = "1 file is" if self.num_left_out == 1 else f"{self.num_left_out} files are"
        return f"{files} left out of '{visible(self.place)}': {summary(self.left_out)}"

    @property
    def num_left_out(self) -> int:
        """Files that are not of the set; a hidden folder counts once."""
        return sum(each.number for each in self.left_out.values())

    def read(self, index: int) -> Image.Image:
        """Image `index`, decoded, in mode RGB; see `decode`. Raises UserError, naming the image, for one that
        cannot be read."""
        return self.read_hashed(index)[0]

    def read_hashed(self, index: int) -> tuple[Image.Image, bytes]:
        """Image `index` as `read` gives it, and the sha256 of its file."""
        raw = self._bytes(index)
        try:
            return decode(raw), hashlib.sha256(raw).digest()
        except UserError as error:
            raise UserError(f"image '{visible(self.names[index])}' of '{self.place}' {error}") from error
        except READ_ERRORS as error:
            raise self._unreadable(index, error) from error

    def sha256(self, index: int) -> bytes:
        """Of the file of image `index`. Raises UserError for one that cannot be read."""
        return hashlib.sha256(self._bytes(index)).digest()

    def _bytes(self, index: int) -> bytes:
        try:
            return self.load(index)
        except READ_ERRORS as error:
            raise self._unreadable(index, error) from error

    def _unreadable(self, index: int, error: BaseException) -> UserError:
        name = self.names[index]
        # Pillow's own words end in the address of an object.
        words = "no image" if isinstance(error, UnidentifiedImageError) else visible(str(error))
        return UserError(
            f"cannot read image '{visible(name)}' of '{self.place}' ({type(error).__name__}: {words})"
            f"{lacking(name)}; copy it again, or take it out of the set"
        )


def open_images(source: Path | str) -> ImageSource:
    """The images of a folder, a ZIP, a tar file, or all tar files that match a pattern such as 'train-*.tar'.

    A folder is searched with its subfolders (linked ones too) and sorted by path, a ZIP is sorted by path;
    shards are sorted by path, and their images keep their order in the shard. An image is what Pillow opens,
    by its ending or else by its content; what is none, hidden or system files and folders (below the source)
    and what is no regular file are left out, and named by `ImageSource.remark`. Tar files must not be
    compressed: images are read in any order. '~' is the home.
    Raises UserError for a source that is missing, empty, damaged or of another kind.
    """
    path = Path(source).expanduser()
    text = os.fspath(path)
    if path.is_dir():
        images = _folder(path)
    elif path.is_file():
        images = _archive(path)
    elif path.exists():
        raise UserError(f"image source '{text}' is no regular file; give a folder, a ZIP or tar files")
    elif any(mark in text for mark in "*?["):
        shards = sorted(Path(match) for match in glob.glob(text))  # noqa: PTH207 - text may be absolute
        images = _shards(text, shards)
    else:
        braces = "; braces are not expanded, write * instead" if "{" in text else ""
        raise UserError(f"image source '{text}' does not exist{braces}; check the path")
    if not len(images):
        shard_hint = f"; for shards give '{text}/*.tar'" if path.is_dir() and any(path.glob("*.tar")) else ""
        left_out = f"; left out: {summary(images.left_out)}" if images.left_out else ""
        raise UserError(
            f"image source '{text}' has no images (.png, .jpg and whatever else Pillow opens){left_out}"
            f"{shard_hint or '; check the path'}"
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
    if scale > 1 and size[0] * size[1] > MOST_PIXELS:
        image = _enlarged_middle(image, resolution, size)
    elif size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    pixels = np.array(image)
    top, left = (pixels.shape[0] - resolution) // 2, (pixels.shape[1] - resolution) // 2
    square = pixels[top : top + resolution, left : left + resolution]
    return torch.from_numpy(square.copy()).permute(2, 0, 1).contiguous()


def _enlarged_middle(image: Image.Image, resolution: int, size: tuple[int, int]) -> Image.Image:
    """What the crop leaves of a long and thin image enlarged to `size`, which itself would take gigabytes.

    Cropped before: the same filter at the same places, so the pixels are equal but for rounding (rarely 1).
    """
    axis = 0 if size[0] > size[1] else 1
    step = image.size[axis] / size[axis]  # pixels of the image for one of the enlarged
    first = (size[axis] - resolution) // 2
    low, high = first * step, (first + resolution) * step
    begin, end = max(int(low) - MARGIN, 0), min(int(high) + 1 + MARGIN, image.size[axis])
    region, box = [0, 0, *image.size], [0.0, 0.0, *map(float, image.size)]
    region[axis], region[axis + 2] = begin, end
    box[axis], box[axis + 2] = low - begin, high - begin
    image = image.crop((region[0], region[1], region[2], region[3]))
    # Rows before columns, as Pillow does for such images.
    wide = (resolution, image.height)
    image = image.resize(wide, Image.Resampling.BICUBIC, box=(box[0], 0, box[2], image.height))
    square = (resolution, resolution)
    return image.resize(square, Image.Resampling.BICUBIC, box=(0, box[1], resolution, box[3]))


def _source(place: str, chosen: Chosen[Where], read: Callable[[Where], bytes]) -> ImageSource:
    places = [entry.where for entry in chosen.images]
    return ImageSource(
        place,
        [entry.name for entry in chosen.images],
        lambda index: read(places[index]),
        [entry.stamp for entry in chosen.images],
        chosen.left_out,
    )


def _sorted(chosen: Chosen[Where]) -> Chosen[Where]:
    return chosen._replace(images=sorted(chosen.images, key=lambda entry: entry.name))


def _folder(folder: Path) -> ImageSource:
    def read(name: str) -> bytes:
        return read_file(folder / name)

    return _source(str(folder), _sorted(choose(folder_entries(folder), read)), read)


def _archive(path: Path) -> ImageSource:
    """A ZIP or tar file: by its ending, else by its content."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_tar = suffixes[-1:] == [".tgz"] or ".tar" in suffixes
    if suffixes[-1:] == [".zip"] or (not is_tar and zipfile.is_zipfile(path)):
        entries, read = open_zip(path)
        return _source(str(path), _sorted(choose(entries, read)), read)
    if is_tar or tarfile.is_tarfile(path):
        return _shards(str(path), [path])
    raise UserError(f"image source '{path}' is a single file; give a folder, a .zip, a .tar or 'NAME-*.tar'")


def _shards(place: str, shards: Sequence[Path]) -> ImageSource:
    if not shards:
        raise UserError(f"no file matches '{place}'; check the pattern")
    found: Chosen[Region] = Chosen([], {})
    for shard in shards:
        chosen = choose(tar_entries(shard), read_region)
        prefix = "" if len(shards) == 1 else f"{shard.name}/"
        found.images.extend(entry._replace(name=prefix + entry.name) for entry in chosen.images)
        for reason, (number, names) in chosen.left_out.items():
            named = tuple(prefix + name for name in names)
            found.left_out[reason] = found.left_out.get(reason, LeftOut()).and_more(number, named)
    return _source(place, found, read_region)
