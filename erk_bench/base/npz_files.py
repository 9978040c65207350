"""Arrays of .npz files, which are compressed: what they expand to is known before it is read."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from erk_bench.base.errors import UserError

MAGIC = b"\x93NUMPY"
MAX_HEADER = 4096  # bytes; those of plain arrays have 118
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # that numpy writes; others may ask for gigabytes


def read_arrays(path: Path, wanted: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The arrays of these names, plain numbers only. wanted: the most elements of each.

    Raises UserError for a file that is damaged, lacks one of them or expands to more.
    """
    try:
        with path.open("rb") as raw:
            if raw.read(len(MAGIC)) == MAGIC:
                raise ValueError("a single array")
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if set(wanted) <= set(members):
                return {name: _read(archive, members[name], most) for name, most in wanted.items()}
    except (
        ValueError, OSError, EOFError, KeyError, SyntaxError, TypeError, AttributeError, MemoryError,
        OverflowError, NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise UserError(
            f"'{path}' is no readable .npz file of statistics ({type(error).__name__}: {error}); it may be "
            "truncated or of another kind: compare its size with the publisher's, or download it again"
        ) from error
    raise UserError(
        f"reference '{path}' holds {', '.join(members) or 'nothing'}; expected {' and '.join(wanted)}: give "
        "a file of statistics, not of images"
    )


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> np.ndarray:
    """One array, once its header is known to be what the archive announces."""
    if info.compress_type not in METHODS:
        raise ValueError(f"'{info.filename}' is compressed in a way that numpy does not use")
    with archive.open(info) as member:
        head = member.read(8)
        size = struct.calcsize("<H" if head[6:7] == b"\x01" else "<I")
        head += member.read(size)
        length = int.from_bytes(head[8:], "little")
        if head[: len(MAGIC)] != MAGIC or length > MAX_HEADER:
            raise ValueError(f"'{info.filename}' is no array")
        head += member.read(length)
        shape, fortran, dtype = _header(io.BytesIO(head))
        count = math.prod(shape)
        if count > most:
            raise ValueError(f"'{info.filename}' has shape {list(shape)}; at most {most:,} values are read")
        if dtype.hasobject or info.file_size != len(head) + count * dtype.itemsize:
            raise ValueError(
                f"'{info.filename}' of {info.file_size:,} bytes is no array of {count:,} plain values"
            )
        values = np.frombuffer(bytearray(_all(member, count * dtype.itemsize)), dtype=dtype, count=count)
    return values.reshape(shape, order="F" if fortran else "C")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"an array of format {version}")
    shape, fortran, dtype = readers[version](stream)
    return shape, fortran, dtype


def _all(member: IO[bytes], count: int) -> bytes:
    raw = member.read(count)
    if len(raw) != count or member.read(1):  # reading on checks the checksum too
        raise EOFError("an array that ends early")
    return raw
