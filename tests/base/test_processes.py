"""Processes that end with another one, and names that tell whether their process still runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from erk_bench.base import processes

RANK = """
import sys, time
from erk_bench.base.processes import end_with_launcher
end_with_launcher()
print("ready", flush=True)
time.sleep(60)
"""


def gone(process: int, patience_s: float = 10.0) -> bool:
    deadline = time.monotonic() + patience_s
    while processes._runs(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def launcher(between: bool, **variables: str) -> tuple[subprocess.Popen[str], int]:
    """A process that starts a rank, directly or by a script between; and the rank's number."""
    start = [sys.executable, "-c", RANK]
    if between:
        start = ["bash", "-c", 'export ERK_BENCH_LAUNCHER=$PPID; "$@"; true', "bash", *start]
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)\n"
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *start],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("between", [False, True])
def test_a_rank_ends_with_torchrun(between: bool) -> None:
    """Only the agent is killed; with a script between, as under Slurm, the rank ends too."""
    agent, child = launcher(between, TORCHELASTIC_RUN_ID="none")
    rank = child
    if between:
        rank = int(Path(f"/proc/{child}/task/{child}/children").read_text().split()[0])
    agent.kill()
    agent.wait()
    assert gone(rank)


def test_what_a_shell_started_outlives_it() -> None:
    variables = {key: "" for key in os.environ if key == "TORCHELASTIC_RUN_ID"}
    assert not variables
    parent, child = launcher(between=False, RANK="0", WORLD_SIZE="2")
    parent.kill()
    parent.wait()
    try:
        assert not gone(child, patience_s=1.5)
    finally:
        os.kill(child, signal.SIGKILL)


def test_without_a_parents_death_signal_a_thread_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    ended: list[int] = []
    monkeypatch.setattr(processes.sys, "platform", "darwin")
    monkeypatch.setattr(processes, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(processes.os, "_exit", ended.append)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    processes.end_with(other.pid)
    assert not ended
    other.kill()
    other.wait()
    await_(lambda: bool(ended))


def await_(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_name_of_a_process_tells_whether_it_runs() -> None:
    now, day = time.time(), 24 * 3600
    own = processes.identity()
    machine, number, started = own.split("-")
    assert number == str(os.getpid()) and not processes.has_ended(own, 0.0)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = f"{machine}-{other.pid}-{processes._start(other.pid)}"
    assert not processes.has_ended(name, 0.0)
    other.kill()
    assert gone(other.pid)  # not yet waited for: a zombie has ended
    assert processes.has_ended(name, now)
    other.wait()
    assert processes.has_ended(name, now)
    # The number was given to another process meanwhile.
    assert processes.has_ended(f"{machine}-{number}-{int(started) - 1}", now)
    # Another machine: we cannot see its processes.
    elsewhere = "00000000-1-1"
    assert not processes.has_ended(elsewhere, now - day / 2) and processes.has_ended(elsewhere, now - 2 * day)
    for strange in ("", "a", "tmp", "12345", "0000-1-1", "zzzzzzzz-1-1", f"{machine}-x-1"):
        assert not processes.has_ended(strange, 0.0), "not ours"
    assert processes.has_ended(f"{machine}-99999999999999999999999-1", now)
