"""SIGUSR2 to a running command: it stops between two blocks, and goes on when started again."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from erk_bench.base import stopping
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.runs import launch
from erk_bench.runs.blocks import Worker, blocks_of
from erk_bench.runs.claims import Claims
from erk_bench.runs.device import assets_of
from erk_bench.runs.generate import generate, unfinished
from erk_bench.runs.launches import LOCKS
from erk_bench.runs.score import finished_record
from erk_bench.spec import RunSpec
from tests.runs.test_generate import contents, ignore
from tests.runs.test_launch import command, environment

PATIENCE_S = 120.0
# Heun's step, as slow as the environment asks for: the end cannot come between two looks at the folder.
SOLVER = """
import os
import time

from erk_bench.sampling.solvers import heun_step


def step(slope, x, sigma, sigma_next, history):
    time.sleep(float(os.environ.get("SLOW_S", "0")))
    return heun_step(slope, x, sigma, sigma_next, history)
"""
SETTINGS = ["schedule.num_steps=3", "seeds=0-47", "block_size=8", "device=cpu", "metrics.num_groups=5",
            "metrics.names=[fd_digits]"]  # fmt: skip
NUM_BLOCKS = 6


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    file = tmp_path_factory.mktemp("solver") / "slow.py"
    file.write_text(SOLVER)
    return [*SETTINGS, f"solver={file}:step"]


@pytest.fixture(scope="module")
def uninterrupted(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All files of the same run without a stop."""
    spec = run_spec([*settings, "workers=1", f"out={tmp_path_factory.mktemp('plain')}"])
    generate([[spec]], Worker(), ignore, features=True)
    return contents(spec)


def stopped(words: list[str], when: Callable[[], bool], **variables: str) -> str:
    """Start a command, send SIGUSR2 once `when` holds, check that it stops as asked; its messages."""
    process = subprocess.Popen(
        command(*words),
        env=environment(SLOW_S="0.2", **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not when():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the moment to stop never came"
            time.sleep(0.005)
        process.send_signal(signal.SIGUSR2)
        printed, told = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == stopping.STATUS == 75, told
    assert "stopped as SIGUSR2 asked; finished blocks are kept, run the same command to go on" in told
    assert "Traceback" not in told and "FD-digits" not in printed
    return told


def features(spec: RunSpec) -> list[str]:
    return [name for name in contents(spec) if name.startswith("features")]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_stops_and_goes_on(
    workers: int, settings: list[str], tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    words = [*settings, f"workers={workers}", f"out={tmp_path}"]
    spec = run_spec(words)
    stopped(["run", *words], lambda: len(features(spec)) >= 1)
    kept = contents(spec)
    blocks = {name.rpartition("/")[2] for name in kept}
    assert 1 <= len(blocks) < NUM_BLOCKS
    assert len(kept) == 2 * len(blocks)  # no block has images alone
    assert kept.items() <= uninterrupted.items()
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("records/*"))
    assert main(["run", *words]) == 0
    assert contents(spec) == uninterrupted
    assert len(finished_record(spec).seconds_per_block) == NUM_BLOCKS  # type: ignore[union-attr]


@pytest.mark.slow
def test_rank_zero_stops_while_it_waits(
    settings: list[str], tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    """It has done its own share; the other rank has begun its own and never ends."""
    words = [*settings, f"out={tmp_path}"]
    spec = run_spec(words)
    own = Worker(0, 2).owned(blocks_of(spec.seed_range, spec.block_size))
    with closing(Claims(tmp_path / LOCKS / "blocks")) as claims:
        for block in blocks_of(spec.seed_range, spec.block_size):
            assert block in own or claims.take(spec.run_id, block)
        stopped(
            ["run", *words], lambda: len(features(spec)) == len(own), RANK="0", WORLD_SIZE="2", LOCAL_RANK="0"
        )
    assert unfinished(spec, features=True) == [
        block for block in blocks_of(spec.seed_range, spec.block_size) if block not in own
    ]
    generate([[spec]], Worker(1, 2, 1), ignore, features=True)
    assert contents(spec) == uninterrupted


def test_waiting_ends_where_the_signal_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that waits looks for the signal each time, not only at the start."""
    spec = run_spec([*SETTINGS, f"out={tmp_path}"])
    looks = 0

    def look(*args: object, **options: object) -> object:
        nonlocal looks
        looks += 1
        if looks == 3:
            monkeypatch.setattr(stopping, "_asked", True)
        return original(*args, **options)  # type: ignore[arg-type]

    original = unfinished
    monkeypatch.setattr(launch, "unfinished", look)
    with pytest.raises(stopping.Stopped):
        launch._wait_for_others([spec], assets_of(spec), features=True)
    assert looks == 3


def test_a_signal_before_the_workers_start_reaches_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come while they are being started, before their numbers are known."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(stopping.os, "kill", lambda process, number: sent.append((process, number)))
    monkeypatch.setattr(stopping, "_asked", True)
    with stopping.passed_on_to([11, 12]):
        assert sorted(sent) == [(11, signal.SIGUSR2), (12, signal.SIGUSR2)]
        stopping._ask(signal.SIGUSR2, None)
        assert len(sent) == 4
    stopping._ask(signal.SIGUSR2, None)
    assert len(sent) == 4  # they have ended
