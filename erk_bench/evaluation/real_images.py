"""Images from a folder, a ZIP, WebDataset shards, an array or a list, and their crop to a model's resolution.

The pixels are those that ADM and EDM2 computed their reference statistics from: converted to RGB, with the
EXIF orientation NOT applied (some ImageNet photographs lie on their side), and ADM's centre crop.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.array_images import open_array
from erk_bench.evaluation.containers import (
    folder_entries,
    open_zip,
    read_file,
    read_region,
    tar_entries,
)
from erk_bench.evaluation.image_files import Entry, LeftOut, Where, choose, summary, visible
from erk_bench.evaluation.image_labels import LabelFiles
from erk_bench.evaluation.image_places import (
    ARRAY,
    FOLDER,
    LIST,
    TAR,
    ZIP,
    expand,
    list_entries,
    one_kind,
)
from erk_bench.evaluation.image_source import Form, ImageSource

MOST_PIXELS = 1 << 25  # of an enlarged image that is cropped afterwards, not before
MARGIN = 4  # pixels that a bicubic filter may look at beyond the middle; it takes two


def open_images(source: Path | str) -> ImageSource:
    """The images of a folder, ZIP, tar file, array or list, or of all places of a pattern ('train-*.tar').

    A folder is searched with its subfolders (linked ones too) and sorted by path, a ZIP is sorted by path;
    several places are sorted by path, and images of a tar file keep their order in it. An image is what
    Pillow opens, by its ending or else by its content; what is none, hidden or system files and folders
    (below the source) and what is no regular file are left out, and named by `ImageSource.remark`. Tar files
    must not be compressed: images are read in any order. Arrays are .npz (arr_0) or .npy, see `open_array`;
    their images are named by their row. A list is a text (.txt, .lst, .list) with a path a line, relative
    to it, in this order. {000..012} stands for these numbers. '~' is the home.
    Raises UserError for a source that is missing, empty, damaged or of another kind, or holds a name twice.
    """
    text = os.fspath(Path(source).expanduser())
    paths = expand(text)
    kind = one_kind(text, paths)
    found = [OPENERS[kind](path) for path in paths]
    images = found[0] if len(found) == 1 else _joined(text, kind, paths, found)
    if not len(images):
        hint = f"; for shards give '{text}/*.tar'" if kind == FOLDER and any(Path(text).glob("*.tar")) else ""
        left_out = f"; left out: {summary(images.left_out)}" if images.left_out else ""
        raise UserError(
            f"image source '{text}' has no images (.png, .jpg and whatever else Pillow opens){left_out}"
            f"{hint or '; check the path'}"
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


def _source(
    path: Path, entries: Iterable[Entry[Where]], read: Callable[[Where], bytes], *, by_path: bool
) -> ImageSource:
    """The images among the entries. Raises UserError where a name comes twice."""
    files = LabelFiles[Where](str(path))
    images, left_out = choose(files.watch(entries), read)
    if by_path:
        images = sorted(images, key=lambda entry: entry.name)
    names = [entry.name for entry in images]
    if len(set(names)) < len(names):
        name, number = Counter(names).most_common(1)[0]
        raise UserError(
            f"'{path}' holds '{visible(name)}' {number} times, and only the last one would be unpacked; "
            "pack it again"
        )
    places = [entry.where for entry in images]
    return ImageSource(
        str(path),
        names,
        lambda index: read(places[index]),
        [entry.stamp for entry in images],
        left_out,
        files.of(names, read),
    )


def _folder(folder: Path) -> ImageSource:
    return _source(folder, folder_entries(folder), lambda name: read_file(folder / name), by_path=True)


def _zip(path: Path) -> ImageSource:
    entries, read = open_zip(path)
    return _source(path, entries, read, by_path=True)


def _tar(path: Path) -> ImageSource:
    return _source(path, tar_entries(path), read_region, by_path=False)


def _list(path: Path) -> ImageSource:
    entries = list_entries(path)
    return ImageSource(
        str(path),
        [entry.name for entry in entries],
        lambda index: read_file(entries[index].where),
        [entry.stamp for entry in entries],
        listed=True,
    )


def _array(path: Path) -> ImageSource:
    found = open_array(path)
    return ImageSource(
        str(path), row_names(found.first, found.num_images), found.load, found.stamps,
        labels=found.labels, form=lambda index: Form(found.image, found.tensor),
        size=(found.height, found.width),
    )  # fmt: skip


OPENERS: dict[str, Callable[[Path], ImageSource]] = {
    FOLDER: _folder, ZIP: _zip, TAR: _tar, ARRAY: _array, LIST: _list,
}  # fmt: skip


def row_names(first: int, count: int) -> list[str]:
    """Names of an array's rows."""
    return [f"{row:06d}" for row in range(first, first + count)]


def _joined(place: str, kind: str, paths: Sequence[Path], sources: Sequence[ImageSource]) -> ImageSource:
    """All images in turn, each named with its place; the rows of arrays are numbered through."""
    above = os.path.commonpath([path.parent for path in paths])
    prefixes = [f"{os.path.relpath(path, above)}/" for path in paths]
    if kind == ARRAY:
        _check_alike(place, sources)
    where = [(source, index) for source in sources for index in range(len(source))]
    names = [prefix + name for prefix, source in zip(prefixes, sources, strict=True) for name in source.names]
    inside = [name for source in sources for name in source.names]
    left_out: dict[str, LeftOut] = {}
    for prefix, source in zip(prefixes, sources, strict=True):
        for reason, (number, some) in source.left_out.items():
            named = tuple(prefix + name for name in some)
            left_out[reason] = left_out.get(reason, LeftOut()).and_more(number, named)
    labels = [source.labels for source in sources if source.labels is not None]
    return ImageSource(
        place,
        names if kind != ARRAY else row_names(0, len(names)),
        lambda index: where[index][0].load(where[index][1]),
        [stamp for source in sources for stamp in source.stamps],
        left_out,
        [label for each in labels for label in each] if len(labels) == len(sources) else None,
        inside if kind in (TAR, ZIP) else [],
        lambda index: where[index][0].form(where[index][1]),
        sources[0].size,
        listed=kind == LIST,
    )


def _check_alike(place: str, sources: Sequence[ImageSource]) -> None:
    """Raise UserError unless all arrays hold images of one size."""
    sizes: dict[tuple[int, int] | None, ImageSource] = {}
    for source in sources:
        sizes.setdefault(source.size, source)
    if len(sizes) > 1:
        told = ", ".join(
            f"{size[0]}x{size[1]} ('{Path(source.place).name}')" for size, source in sizes.items() if size
        )
        raise UserError(f"the arrays of '{place}' hold images of several sizes: {told}; give each by itself")
