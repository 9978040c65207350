"""A folder of the user's own inside a cache that others may write too, where no link is followed.

It holds downloads that are not complete, locks, and verdicts on files: what another user could put there
would be taken for our own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from erk_bench.base.errors import UserError
from erk_bench.base.files import writing

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not make us wait


class PrivateFolder:
    """An open folder that nobody else may read or write; its files are opened by plain names, never through
    links."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file for reading and writing, made if it is missing.

        What is there and is no regular file of ours under one name (a link, a pipe) is removed first.
        """
        with writing(self.path / name), os.fdopen(self._opened(name), "r+b") as file:
            yield file

    def _opened(self, name: str) -> int:
        with suppress(FileExistsError):
            return os.open(name, FILE | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self._descriptor)
        with suppress(OSError):
            descriptor = os.open(name, FILE, dir_fd=self._descriptor)
            facts = os.fstat(descriptor)
            if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and facts.st_uid == os.geteuid():
                return descriptor
            os.close(descriptor)
        self.remove(name)
        return os.open(name, FILE | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self._descriptor)

    def read(self, name: str) -> bytes:
        """The content of a file; empty where there is none."""
        try:
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return b""
        with self.open(name) as file:
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Replace a file's content at once."""
        temporary = f"{name}.{os.getpid()}.tmp"
        self.remove(temporary)
        with self.open(temporary) as file:
            file.write(data)
        with writing(self.path / name):
            os.replace(temporary, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)

    def move(self, name: str, root: Path, target: Path) -> None:
        """Rename a file to `target`, below `root`; folders between them are made, none may be a link."""
        with writing(target), _opened_below(root, target.relative_to(root).parts[:-1]) as folder:
            os.replace(name, target.name, src_dir_fd=self._descriptor, dst_dir_fd=folder)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Held by one process (or thread) at a time; the others wait."""
        with writing(self.path / name):
            descriptor = self._opened(name)
        try:
            with suppress(OSError):  # a file system without locks: two may fetch the same, each whole
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


@contextmanager
def private_folder(path: Path) -> Iterator[PrivateFolder]:
    """The folder at `path`, made if it is missing. Raises UserError for a link, or if others may use it."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
    try:
        descriptor = os.open(path, FOLDER | os.O_NOFOLLOW)
    except OSError as error:
        raise _not_private(path, str(error.strerror)) from error
    try:
        facts = os.fstat(descriptor)
        if facts.st_uid != os.geteuid():
            raise _not_private(path, f"it belongs to user {facts.st_uid}")
        if facts.st_mode & 0o077:
            raise _not_private(path, f"others may use it (mode {stat.S_IMODE(facts.st_mode):o})")
        yield PrivateFolder(path, descriptor)
    finally:
        os.close(descriptor)


def _not_private(path: Path, why: str) -> UserError:
    return UserError(
        f"'{path}' is not a folder of yours alone: {why}; remove it, or choose another cache with "
        "ERK_BENCH_CACHE=FOLDER"
    )


@contextmanager
def _opened_below(root: Path, names: Sequence[str]) -> Iterator[int]:
    with ExitStack() as stack:
        root.mkdir(parents=True, exist_ok=True)
        folder = os.open(root, FOLDER)
        stack.callback(os.close, folder)
        for number, name in enumerate(names, 1):
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=folder)
            try:
                folder = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                raise UserError(
                    f"'{root.joinpath(*names[:number])}' is a link or no folder, and nothing is written "
                    "through links; remove it, or choose another cache with ERK_BENCH_CACHE=FOLDER"
                ) from error
            stack.callback(os.close, folder)
        yield folder
