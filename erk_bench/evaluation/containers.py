"""The files of a folder, a ZIP or a tar file, and their bytes."""

from __future__ import annotations

import functools
import os
import stat
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from erk_bench.base.errors import UserError
from erk_bench.evaluation.image_files import HEAD, Entry, hidden_part, is_image_name

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
MOST_BYTES = 1 << 30  # of a single image file


class Region(NamedTuple):
    """Where a file lies in an uncompressed tar file."""

    shard: Path
    offset: int
    size: int


def _nothing() -> bytes:
    return b""


def stamp_of(facts: os.stat_result) -> tuple[int, ...]:
    """Numbers that change whenever a file does: size, times, inode."""
    # ctime and inode: a file that was moved here may have kept size and time of the one before.
    return (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"it has {size:,} bytes, and {MOST_BYTES:,} are the most that is read")


def read_file(path: Path, size: int | None = None) -> bytes:
    """The first `size` bytes of a file, or all. Raises ValueError for one that cannot be an image."""
    with path.open("rb") as file:
        if size is None:
            _check_size(os.fstat(file.fileno()).st_size)
        return file.read(-1 if size is None else size)


def folder_entries(folder: Path) -> Iterator[Entry[str]]:
    """The files of a folder and its subfolders, linked ones too, by their path in it.

    Hidden folders are named, not searched. Raises UserError for a folder that cannot be listed, and for a
    link back to a folder that holds it.
    """
    root = folder.resolve()
    above = [_place(path) for path in (root, *root.parents)]
    stack = [("", above)]
    while stack:
        inside, holders = stack.pop()
        try:
            with os.scandir(folder / inside) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"cannot list '{error.filename}': {error.strerror}; check its permissions"
            ) from error
        for entry in entries:
            name = inside + entry.name
            try:
                facts = entry.stat()
            except OSError:  # a link to nothing, or to itself
                yield Entry(name, (), False, name, _nothing)
                continue
            if not stat.S_ISDIR(facts.st_mode):
                peek = functools.partial(read_file, folder / name, HEAD)
                yield Entry(name, stamp_of(facts), stat.S_ISREG(facts.st_mode), name, peek)
            elif hidden_part(entry.name) is not None:
                yield Entry(f"{name}/", (), False, name, _nothing)
            elif (facts.st_dev, facts.st_ino) in holders:
                raise UserError(f"'{folder / name}' links back to a folder that holds it; remove the link")
            else:
                stack.append((f"{name}/", [*holders, (facts.st_dev, facts.st_ino)]))


def _place(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_dev, facts.st_ino


def open_zip(path: Path) -> tuple[list[Entry[zipfile.ZipInfo]], Callable[[zipfile.ZipInfo], bytes]]:
    """The files of a ZIP, and how one is read, from any thread. Raises UserError for a damaged one."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, RuntimeError, struct.error, zipfile.BadZipFile) as error:
        raise UserError(
            f"'{path}' is no readable ZIP file ({error}); it may be truncated: copy it again"
        ) from error
    lock = threading.Lock()  # a ZipFile counts its open members without one

    def read(member: zipfile.ZipInfo, size: int = -1) -> bytes:
        _check_size(member.file_size)
        with lock, archive.open(member) as file:
            return file.read(size)

    def entry(member: zipfile.ZipInfo) -> Entry[zipfile.ZipInfo]:
        kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the ZIP was not packed on Unix
        plain = kind in (0, stat.S_IFREG)
        stamp = (member.CRC, member.file_size)
        return Entry(member.filename, stamp, plain, member, functools.partial(read, member, HEAD))

    return [entry(member) for member in archive.infolist() if not member.is_dir()], read


def tar_entries(shard: Path) -> Iterator[Entry[Region]]:
    """The files of an uncompressed tar file, in its order.

    Raises UserError for a compressed or damaged one, and for images that are links.
    """
    if not shard.is_file():
        raise UserError(f"'{shard}' is no regular file; give .tar files")
    try:
        with shard.open("rb") as file:
            start = file.read(8)
            facts = os.fstat(file.fileno())
            file.seek(0)
            kind = next((kind for magic, kind in COMPRESSED.items() if start.startswith(magic)), None)
            if kind is not None:
                raise UserError(
                    f"'{shard}' is compressed with {kind}; single images can be read from uncompressed .tar "
                    "files only: decompress it first, and give the .tar, or unpack it and give the folder"
                )
            with tarfile.open(fileobj=file, mode="r:") as archive:
                stamp = stamp_of(facts)
                for member in archive:
                    if not member.isdir():
                        yield _tar_entry(shard, member, file, stamp)
    except UserError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise UserError(
            f"'{shard}' is no readable tar file ({error}); it may be truncated: copy it again"
        ) from error


def _tar_entry(
    shard: Path, member: tarfile.TarInfo, file: BinaryIO, of_shard: tuple[int, ...]
) -> Entry[Region]:
    plain = member.isreg() and not member.issparse()
    wanted = member.isreg() or member.issym() or member.islnk()
    if wanted and is_image_name(member.name) and hidden_part(member.name) is None:
        if not plain:
            raise UserError(
                f"'{member.name}' in '{shard}' is a link or no plain file; pack the shard again with "
                "--dereference --hard-dereference"
            )
        if member.offset_data + member.size > os.fstat(file.fileno()).st_size:
            raise UserError(f"'{shard}' ends within '{member.name}'; it is truncated: copy it again")
    region = Region(shard, member.offset_data, member.size)
    stamp = (member.offset_data, member.size, *of_shard)

    def peek() -> bytes:
        # tarfile finds its place again; opening a shard of thousands of labels for each would be slow.
        file.seek(member.offset_data)
        return file.read(min(HEAD, member.size))

    return Entry(member.name, stamp, plain, region, peek)


def read_region(region: Region) -> bytes:
    """A file of a tar, opened anew: no position is shared between threads, and shards may be thousands."""
    _check_size(region.size)
    with region.shard.open("rb") as file:
        file.seek(region.offset)
        return file.read(region.size)
