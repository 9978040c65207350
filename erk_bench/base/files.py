"""Files that are complete under their final name, or absent, and their hashes."""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from erk_bench.base.errors import UserError
from erk_bench.base.processes import has_ended, identity

NAME_BYTES = 255  # the longest name that Linux and macOS give a file
PATH_BYTES = 1023 if sys.platform == "darwin" else 4095
ROOM = 300  # for what we put below a path

_numbers = itertools.count()
_swept: set[Path] = set()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failure to write `path` into one clear UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"disk full while writing '{path}'; free some space or choose another folder, then run the "
                "same command again: finished files are kept"
            ) from error
        raise UserError(f"cannot write '{path}': {error.strerror}; check the folder") from error


def check_path(what: str, path: Path) -> None:
    """Refuse a path that no file system takes, or that leaves no room below. what: where it comes from."""
    for part in path.parts:
        size = len(os.fsencode(part))
        if size > NAME_BYTES:
            raise UserError(
                f"{what} gives a file name of {size} bytes ('{part[:40]}...'); at most {NAME_BYTES} are "
                "possible: choose a shorter one"
            )
    size = len(os.fsencode(path.absolute()))
    if size > PATH_BYTES - ROOM:
        raise UserError(
            f"{what} gives a path of {size} bytes ('{str(path)[:40]}...'); at most {PATH_BYTES - ROOM} are "
            "possible: choose a shorter one"
        )


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name in the same folder, then rename; see open_atomic."""
    with open_atomic(path) as file:
        file.write(data)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """A file under a temporary name in the same folder, renamed to `path` when the block ends without error.

    Raises UserError when the disk is full or the folder cannot be written. After any error the temporary file
    is removed; those of writers that were killed are, before the first file of this process in the folder.
    """
    folder = path.parent
    temporary = _temporary(path)
    renamed = False
    try:
        with writing(path):
            if folder not in _swept:
                _swept.add(folder)
                sweep(folder)
            with _new_file(temporary) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            renamed = True
    finally:
        if not renamed:
            with suppress(OSError):
                temporary.unlink()


def write_new(path: Path, data: bytes) -> bool:
    """As write_atomic, but a file that is there stays. Whether `path` has `data` then.

    Of several processes that write the same files the first decides, so that what belongs together stays so.
    """
    spare = _temporary(path)
    try:
        if not path.exists():
            write_atomic(spare, data)
            with writing(path), suppress(FileExistsError):
                os.link(spare, path)
        return path.read_bytes() == data
    finally:
        spare.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A name beside `path` that says who writes; shorter than the longest that a file may have."""
    return path.parent / f".{path.name[:40]}.{identity()}.{next(_numbers)}.tmp"


def _new_file(path: Path) -> BinaryIO:
    """A file that was not there: a link that others put in its place is not followed.

    Its folder is made where it is missing; asking before, file for file, would cost a network file system
    more than the file.
    """
    try:
        return path.open("xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        path.unlink()
    return path.open("xb")


def sweep(folder: Path) -> None:
    """Remove temporary files of `open_atomic` in a folder whose writers have ended."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.startswith(".") and entry.name.endswith(".tmp")):
                continue
            with suppress(OSError):
                facts = entry.stat(follow_symlinks=False)
                words = entry.name.removesuffix(".tmp").rsplit(".", 2)
                if len(words) == 3 and has_ended(words[1], facts.st_mtime):
                    Path(entry.path).unlink()


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file; hashed once a process while it is the same."""
    try:
        return _file_sha256(path, facts_of(path))
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}; check the path") from error


@functools.lru_cache(maxsize=256)
def _file_sha256(path: Path, facts: tuple[int, ...]) -> str:
    return fresh_sha256(path)


def facts_of(path: Path) -> tuple[int, ...]:
    """What changes whenever a file does: its number, size and times, of which nobody can set the last."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def fresh_sha256(path: Path) -> str:
    """Hex sha256 of a file as it is now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
