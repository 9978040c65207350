"""The command's first and last moments: signals during imports, its status, its output."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import erk_bench
from tests.runs.test_launch import SETTINGS, command, environment

SMALL = [*SETTINGS, "seeds=0-39", "block_size=8", "workers=1", "metrics.names=[fd_digits]"]


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGUSR2, 75, "stopped as SIGUSR2 asked"),
    ],
)
def test_a_signal_while_torch_is_imported(number: int, status: int, words: str) -> None:
    """One line, no traceback, at once."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "erk_bench.cli", "plan"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    seen = ""
    while "torch.version" not in seen.rpartition("\n")[2]:  # torch has many modules to go
        line = process.stderr.readline()
        assert line, "it ended before the signal"
        seen += f"\n{line.rstrip()}"
    process.send_signal(number)
    printed, told = process.communicate(timeout=60)
    assert process.returncode == status and not printed
    told = "\n".join(line for line in told.splitlines() if not line.startswith("import time:"))
    assert told.startswith(f"erk-bench: {words}") and "\n" not in told


def test_nothing_heavy_comes_before_the_signals() -> None:
    heavy = ("torch", "numpy", "hydra")
    code = f"import sys, erk_bench.entry; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_package_gives_its_names_when_asked() -> None:
    assert set(dir(erk_bench)) == set(erk_bench.__all__)
    assert all(getattr(erk_bench, name) is not None for name in erk_bench.__all__)
    with pytest.raises(AttributeError, match="no attribute 'smaple'"):
        erk_bench.smaple  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "variables", "status"),
    [
        ("", {"PYTHONIOENCODING": "ascii"}, 0),
        ("", {"PYTHONIOENCODING": "latin-1"}, 0),
        ("", {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, 0),
        (">/dev/full", {}, 1),
        ("2>/dev/full", {}, 0),
        (">&- 2>&-", {}, 0),
    ],
)
def test_output_is_never_why_a_run_fails(
    words: str, variables: dict[str, str], status: int, tmp_path: Path
) -> None:
    """The record is there whatever becomes of the words."""
    line = f'exec "$@" {words}'
    run = ["bash", "-c", line, "bash", *command("run", *SMALL, f"out={tmp_path}")]
    done = subprocess.run(run, env=environment(**variables), capture_output=True, check=False)
    assert done.returncode == status
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    if status:
        assert (
            b"the output could not be written (No space left on device); the files are there" in done.stderr
        )
    assert len(list(tmp_path.glob("*/records/0-39.json"))) == 1


@pytest.mark.slow
def test_a_user_without_a_name_or_a_home(tmp_path: Path) -> None:
    """As in a container of another user: works where the cache is not needed."""
    # As another user, who may read everything all the same: Python itself may lie in somebody's home.
    able = "+dac_read_search,+dac_override"
    other = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", f"--inh-caps={able}"]
    nobody = [*other, f"--ambient-caps={able}"] if os.getuid() == 0 and shutil.which("setpriv") else []
    done = subprocess.run(
        ["env", "-i", f"PATH={os.environ['PATH']}", *nobody, *command("run", *SMALL, "out=runs")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "FD-digits" in done.stdout and "Traceback" not in done.stderr
