"""Standard output and error of a command: never the reason why finished work fails."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import TextIO

# What stands in for signs that an encoding does not have.
PLAIN = {"±": "+-", "×": "x", "−": "-", "–": "-", "…": "...", "σ": "sigma", "λ": "lambda", "│": "|", "─": "-"}


def prepare() -> None:
    """Make both streams of this process such that printing never fails; see `lost` for what could not be."""
    codecs.register_error("erk_bench_plain", _plain)
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file to be opened would take its place
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _stream(1, sys.stdout)
    sys.stderr = _stream(2, sys.stderr)


def lost() -> OSError | None:
    """Why some of the standard output could not be written, if so; a reader that has gone wants no more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.error if isinstance(raw, _Lenient) else None


class _Lenient(io.RawIOBase):
    """A descriptor to write to, which keeps the first error for later instead of raising it.

    A reader that has gone is told by BrokenPipeError on standard output.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]  # any buffer
        try:
            return os.write(self._descriptor, data)
        except OSError as error:
            if error.errno == errno.EPIPE and self._descriptor == 1:
                raise
            self.error = self.error or error
            return len(data)


def _stream(descriptor: int, present: TextIO | None) -> TextIO:
    encoding = getattr(present, "encoding", None) or "utf-8"
    raw = _Lenient(descriptor)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),  # type: ignore[type-var]  # a raw stream is one
        encoding,
        "erk_bench_plain",
        line_buffering=descriptor == 2 or raw.isatty(),
    )


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end]
    return "".join(PLAIN.get(sign, "?") for sign in signs), error.end
