"""Output that cannot be shown or written: signs, closed streams, full devices, readers that have gone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SHOW = r"""
import sys
from erk_bench.base import terminal
terminal.prepare()
print("0.5 \u00b1 0.1 \u65e5 \udcff")
print("note: \u03c3", file=sys.stderr)
error = terminal.lost()
print("rest")
sys.exit(7 if error else 0)
"""


def shown(words: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """What a process prints; words: redirections of a shell."""
    return subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {words}', sys.executable, SHOW],
        capture_output=True,
        check=False,
        env={**os.environ, **variables},
    )


@pytest.mark.parametrize(
    ("variables", "printed"),
    [
        ({"PYTHONIOENCODING": "utf-8"}, "0.5 ± 0.1 日 ?".encode()),
        ({"PYTHONIOENCODING": "ascii"}, b"0.5 +- 0.1 ? ?"),
        ({"PYTHONIOENCODING": "ascii:strict"}, b"0.5 +- 0.1 ? ?"),
        ({"PYTHONIOENCODING": "latin-1"}, "0.5 ± 0.1 ? ?".encode("latin-1")),
        ({"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, b"0.5 +- 0.1 ? ?"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0"}, b"0.5 +- 0.1 ? ?"),
    ],
)
def test_signs_that_an_encoding_lacks(variables: dict[str, str], printed: bytes) -> None:
    done = shown(**variables)
    assert done.returncode == 0 and done.stdout == printed + b"\nrest\n"
    assert done.stderr.startswith(b"note: ") and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("words", "status", "stdout", "stderr"),
    [
        (">/dev/full", 7, b"", b"note: "),
        ("2>/dev/full", 0, b"0.5", b""),
        (">/dev/full 2>/dev/full", 7, b"", b""),
        (">&-", 0, b"", b"note: "),
        ("2>&-", 0, b"0.5", b""),
        ("<&- >&- 2>&-", 0, b"", b""),
    ],
)
def test_streams_that_are_full_or_closed(words: str, status: int, stdout: bytes, stderr: bytes) -> None:
    """Printing goes on; a full standard output is known in the end."""
    done = shown(words, PYTHONIOENCODING="utf-8")
    assert done.returncode == status
    assert done.stdout.startswith(stdout) and (stdout or not done.stdout)
    assert done.stderr.startswith(stderr) and done.stderr.count(b"\n") == bool(stderr)


def test_a_reader_that_has_gone_is_told_as_ever() -> None:
    code = (
        "import sys; from erk_bench.base import terminal; terminal.prepare()\n"
        "try:\n    [print('x' * 1000) for _ in range(1000)]\n"
        "except BrokenPipeError:\n    import os; os._exit(9)"
    )
    command = 'set -o pipefail; "$0" -c "$1" | head -n 1'
    done = subprocess.run(["bash", "-c", command, sys.executable, code], capture_output=True, check=False)
    assert done.returncode == 9 and not done.stderr


def test_a_reader_that_takes_only_the_beginning() -> None:
    """What is left when it has gone is dropped without a word."""
    show = SHOW.replace("error =", "import time; time.sleep(0.3); error =")
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" | true; echo ${PIPESTATUS[0]}', sys.executable, show],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"0\n" and done.stderr.count(b"\n") == 1
