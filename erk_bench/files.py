"""Files that are complete under their final name, or absent, and their hashes."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from erk_bench.errors import UserError


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


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name in the same folder, then rename; see open_atomic."""
    with open_atomic(path) as file:
        file.write(data)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """A file under a temporary name in the same folder, renamed to `path` when the block ends without error.

    Raises UserError when the disk is full or the folder cannot be written. After any error the temporary file
    is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file; hashed once a process while its size and time stay."""
    try:
        facts = path.stat()
        return _file_sha256(path, facts.st_size, facts.st_mtime_ns)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}; check the path") from error


@functools.lru_cache(maxsize=256)
def _file_sha256(path: Path, size: int, modified: int) -> str:
    return fresh_sha256(path)


def fresh_sha256(path: Path) -> str:
    """Hex sha256 of a file as it is now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
