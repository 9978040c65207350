"""Images that are the rows of one array: a .npy file, or guided-diffusion's .npz (arr_0, labels in arr_1)."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.npz_files import (
    ARRAY_ERRORS,
    MAGIC,
    ArrayHeader,
    check_member,
    check_size,
    read_header,
    read_values,
)
from erk_bench.evaluation.containers import MOST_BYTES, Region, read_region, stamp_of

IMAGES, LABELS = "arr_0", "arr_1"
SAMPLE = 1 << 22  # values of a refused array whose range the message tells
LOCAL_HEADER = 30  # bytes of a ZIP member's own header before its name
EXPORTED = re.compile(rb"erk-bench export \S+ seeds (\d{1,18})-(\d{1,18})")  # our comment in an .npz

Bytes = Callable[[int, int], bytes]  # (offset, size), from any thread


class ArrayImages(NamedTuple):
    """Images of one shape. first: number of the first row. load: the pixels of a row, as they lie there.

    tensor, image: those as uint8 [3, H, W] and in mode RGB; grey ones get three equal channels. stamps: one
    for each image.
    """

    first: int
    num_images: int
    height: int
    width: int
    load: Callable[[int], bytes]
    tensor: Callable[[bytes], Tensor]
    image: Callable[[bytes], Image.Image]
    stamps: Sequence[tuple[int, ...]]
    labels: list[int] | None


def open_array(path: Path) -> ArrayImages:
    """The images of a .npy or .npz file, uint8 [N, H, W, C] or [N, C, H, W] with C = 1 or 3.

    Rows are read one by one when they are asked for. A compressed array has to be expanded for that: into a
    temporary file without a name. Pickled objects are never read.
    Raises UserError for a damaged file, and for an array of another type or shape.
    """
    try:
        with path.open("rb") as file:
            stamp = stamp_of(os.fstat(file.fileno()))
            start = file.read(len(MAGIC))
            if start == MAGIC:
                file.seek(0)
                return _npy(path, file, stamp)
        with zipfile.ZipFile(path) as archive:
            return _npz(path, archive, stamp)
    except UserError:
        raise
    except ARRAY_ERRORS as error:
        raise UserError(
            f"'{path}' is no readable array of images ({type(error).__name__}: {error}); it may be "
            "truncated: copy it again"
        ) from error


def _npy(path: Path, file: IO[bytes], stamp: tuple[int, ...]) -> ArrayImages:
    head = read_header(path.name, file)
    _check(path, "", head, lambda count: read_values(file, head, count))
    check_size(path.name, head, stamp[0])
    return _images(head, lambda offset, size: read_region(Region(path, offset, size)), stamp, head.length)


def _npz(path: Path, archive: zipfile.ZipFile, stamp: tuple[int, ...]) -> ArrayImages:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    name = IMAGES if IMAGES in members else next(iter(members), "")
    if name not in members or (name != IMAGES and len(members) > 1):
        raise UserError(
            f"'{path}' holds {', '.join(members) or 'nothing'}; expected the images as {IMAGES}, uint8 "
            "[N, H, W, C]: save them with numpy.savez(file, images)"
        )
    info = members[name]
    check_member(info)
    with archive.open(info) as member:
        head = read_header(info.filename, member)
        _check(path, name, head, lambda count: read_values(member, head, count))
    check_size(info.filename, head, info.file_size)
    if info.compress_type == zipfile.ZIP_STORED:
        start = _data_offset(path, info) + head.length
        read: Bytes = lambda offset, size: read_region(Region(path, offset, size))  # noqa: E731
    else:
        start, read = head.length, _expanded(path, archive, info)
    images = _images(head, read, stamp, start)
    exported = EXPORTED.match(archive.comment)
    if exported is not None and int(exported[2]) - int(exported[1]) + 1 == images.num_images:
        images = images._replace(first=int(exported[1]))  # the rows are of these seeds
    return images._replace(labels=_labels(archive, members.get(LABELS), images.num_images))


def _check(path: Path, name: str, head: ArrayHeader, read: Callable[[int], np.ndarray]) -> None:
    """Raise UserError unless it is an array of 8-bit images."""
    what = f"{name} of '{path}'" if name else f"'{path}'"
    if head.dtype.hasobject:
        raise UserError(
            f"{what} holds Python objects, which are pickled and never read; save the images as one array of "
            "uint8"
        )
    if head.dtype != np.uint8:
        values, told = np.empty(0), ""
        if head.dtype.kind in "biuf":
            values = read(min(head.num_values, SAMPLE))
        if values.size:
            told = f", values from {values.min():g} to {values.max():g}"
            told += " at its beginning" if values.size < head.num_values else ""
        raise UserError(
            f"{what} is of type {head.dtype}{told}; images are uint8 from 0 to 255: scale them, round, clip "
            "and save them with .astype('uint8')"
        )
    if len(head.shape) != 4 or not {head.shape[1], head.shape[3]} & {1, 3} or 0 in head.shape[1:]:
        grey = "; grey images need an axis of channels: images[..., None]" if len(head.shape) == 3 else ""
        raise UserError(
            f"{what} has shape {list(head.shape)}; expected [N, H, W, C] or [N, C, H, W] with 1 or 3 "
            f"channels{grey or ': convert it'}"
        )
    if head.fortran and head.num_values:
        raise UserError(
            f"{what} is in Fortran order, whose images do not lie together; save "
            "numpy.ascontiguousarray(images)"
        )
    if head.num_values // max(head.shape[0], 1) > MOST_BYTES:
        raise UserError(f"{what} has images of more than {MOST_BYTES:,} bytes; these are not read")


def _images(head: ArrayHeader, read: Bytes, stamp: tuple[int, ...], start: int) -> ArrayImages:
    count, *shape = head.shape
    last = shape[2] in (1, 3)  # the channels
    height, width, channels = shape if last else (shape[1], shape[2], shape[0])
    size = height * width * channels

    def load(row: int) -> bytes:
        raw = read(start + row * size, size)
        if len(raw) != size:
            raise EOFError("the array ends early")
        return raw

    def tensor(raw: bytes) -> Tensor:
        values = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(shape)
        return (values.permute(2, 0, 1) if last else values).expand(3, height, width)

    def image(raw: bytes) -> Image.Image:
        return Image.fromarray(tensor(raw).permute(1, 2, 0).contiguous().numpy())

    return ArrayImages(
        0, count, height, width, load, tensor, image,
        [(row, size, *stamp) for row in range(count)], None,
    )  # fmt: skip


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin; its header in the file may be longer than in the list."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(LOCAL_HEADER)
    if len(header) < LOCAL_HEADER:
        raise EOFError("a member that ends early")
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return info.header_offset + LOCAL_HEADER + name + extra


def _expanded(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Bytes:
    """A compressed member in a temporary file, which goes with the last reader."""
    folder = tempfile.gettempdir()
    if info.file_size > shutil.disk_usage(folder).free:
        raise UserError(
            f"'{path}' is compressed and needs {info.file_size:,} bytes in '{folder}' when it is read, more "
            "than are free; save it with numpy.savez, uncompressed, or set TMPDIR to a larger disk"
        )
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when nobody reads from it any more
    with archive.open(info) as member:
        shutil.copyfileobj(member, file, 1 << 20)
    file.flush()
    return lambda offset, size: os.pread(file.fileno(), size, offset)


def _labels(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, count: int) -> list[int] | None:
    """The classes of arr_1, one whole number an image; None where it is something else."""
    if info is None:
        return None
    check_member(info)
    with archive.open(info) as member:
        head = read_header(info.filename, member)
        if head.shape != (count,) or head.dtype.kind not in "iu":
            return None
        values: list[int] = read_values(member, head, count).tolist()
    return values
