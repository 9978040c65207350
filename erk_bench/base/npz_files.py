"""Arrays of .npz files, which are compressed: what they expand to is known before it is read."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from erk_bench.base.errors import UserError

MAGIC = b"\x93NUMPY"
MAX_HEADER = 4096  # bytes; those of plain arrays have 118
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # that numpy writes; others may ask for gigabytes

# What numpy and zipfile raise for damaged files.
ARRAY_ERRORS = (
    ValueError, OSError, EOFError, KeyError, SyntaxError, TypeError, AttributeError, MemoryError,
    OverflowError, NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_arrays(path: Path, wanted: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The arrays of these names, plain numbers only. wanted: the most elements of each.

    Raises UserError for a file that is damaged, lacks one of them or expands to more.
    """
    with _opened(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if set(wanted) <= set(members):
            return {name: _read(archive, members[name], most) for name, most in wanted.items()}
    raise UserError(
        f"reference '{path}' holds {', '.join(members) or 'nothing'}; expected {' and '.join(wanted)}: give "
        "a file of statistics, not of images"
    )


def array_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all arrays by name, from their headers. Raises UserError for a damaged file."""
    shapes = {}
    with _opened(path) as archive:
        for info in archive.infolist():
            check_member(info)
            with archive.open(info) as member:
                shapes[info.filename.removesuffix(".npy")] = read_header(info.filename, member).shape
    return shapes


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; what goes wrong while it is read becomes one UserError."""
    try:
        with path.open("rb") as raw:
            if raw.read(len(MAGIC)) == MAGIC:
                raise ValueError("a single array")
        with zipfile.ZipFile(path) as archive:
            yield archive
    except ARRAY_ERRORS as error:
        raise UserError(
            f"'{path}' is no readable .npz file of statistics ({type(error).__name__}: {error}); it may be "
            "truncated or of another kind: compare its size with the publisher's, or download it again"
        ) from error


class ArrayHeader(NamedTuple):
    """What a .npy file begins with. length: of the header itself, in bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    length: int

    @property
    def num_values(self) -> int:
        """Values of the array."""
        return math.prod(self.shape)


def read_header(name: str, file: IO[bytes]) -> ArrayHeader:
    """The header of a .npy file. Raises one of ARRAY_ERRORS for what is none, or damaged."""
    head = file.read(8)
    size = struct.calcsize("<H" if head[6:7] == b"\x01" else "<I")
    head += file.read(size)
    length = int.from_bytes(head[8:], "little")
    if head[: len(MAGIC)] != MAGIC or length > MAX_HEADER:
        raise ValueError(f"'{name}' is no array")
    head += file.read(length)
    return ArrayHeader(*_header(io.BytesIO(head)), len(head))


def read_values(file: IO[bytes], head: ArrayHeader, count: int) -> np.ndarray:
    """The first `count` plain numbers after a header, flat. Raises EOFError where there are fewer."""
    raw = file.read(count * head.dtype.itemsize)
    if len(raw) != count * head.dtype.itemsize:
        raise EOFError("an array that ends early")
    return np.frombuffer(bytearray(raw), dtype=head.dtype, count=count)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> np.ndarray:
    """One array, once its header is known to be what the archive announces."""
    check_member(info)
    with archive.open(info) as member:
        head = read_header(info.filename, member)
        if head.num_values > most:
            raise ValueError(
                f"'{info.filename}' has shape {list(head.shape)}; at most {most:,} values are read"
            )
        check_size(info.filename, head, info.file_size)
        values = read_values(member, head, head.num_values)
        if member.read(1):  # reading on checks the checksum too
            raise EOFError("an array that goes on")
    return values.reshape(head.shape, order="F" if head.fortran else "C")


def check_member(info: zipfile.ZipInfo) -> None:
    """Raise ValueError for a member that numpy did not write."""
    if info.compress_type not in METHODS:
        raise ValueError(f"'{info.filename}' is compressed in a way that numpy does not use")


def check_size(name: str, head: ArrayHeader, size: int) -> None:
    """Raise ValueError where a file of `size` bytes is not the header and its plain values."""
    if head.dtype.hasobject or size != head.length + head.num_values * head.dtype.itemsize:
        raise ValueError(f"'{name}' of {size:,} bytes is no array of {head.num_values:,} plain values")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"an array of format {version}")
    shape, fortran, dtype = readers[version](stream)
    return shape, fortran, dtype
