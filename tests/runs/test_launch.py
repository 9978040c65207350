"""Workers of a launch: local processes, torchrun, deaths."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from erk_bench.base.errors import BusyError, UserError, WorkerLostError
from erk_bench.runs import launch
from erk_bench.runs.blocks import Worker
from erk_bench.runs.generate import generate, unfinished
from erk_bench.runs.launches import working_on
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec
from tests.runs.test_generate import broken_checkpoint, claimed, contents, ignore

MakeSpec = Callable[..., RunSpec]

SETTINGS = ["schedule.num_steps=4", "device=cpu", "metrics.num_groups=5", "metrics.kid_subset_size=20"]


# Heun's step, which tells that it works on a block (of 8), and waits while a file is there.
HELD = """
import os
import time
from pathlib import Path

from erk_bench.sampling.solvers import heun_step


def step(slope, x, sigma, sigma_next, history):
    if len(x) == 8 and "HOLD" in os.environ:
        Path(os.environ["BEGUN"]).touch()
        while Path(os.environ["HOLD"]).exists():
            time.sleep(0.02)
    return heun_step(slope, x, sigma, sigma_next, history)
"""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "erk_bench.cli", *words]


def environment(**extra: str) -> dict[str, str]:
    """The test's environment and more; the fixture of all tests took a launcher's variables away."""
    return os.environ | extra


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local workers that are forks of the test: where they are spawned, imports take seconds."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(launch.multiprocessing, "get_context", lambda method: context)


@pytest.mark.slow
def test_local_workers_give_the_same_bytes(small_run: MakeSpec, tmp_path: Path) -> None:
    plain = small_run()
    generate([[plain]], Worker(), ignore, features=True)
    spec = small_run("workers=2", f"out={tmp_path / 'two'}")
    assert launch.compute([[spec]], features=True, title="test")
    assert contents(spec) == contents(plain)


def test_local_workers_report_a_users_mistake(small_run: MakeSpec, tmp_path: Path, forked: None) -> None:
    spec = small_run(*broken_checkpoint(tmp_path, float("nan")), "workers=2")
    with pytest.raises(UserError, match="not finite for seeds"):
        launch.compute([[spec]], features=True, title="test")


def test_finished_work_starts_no_workers(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_run("workers=2")
    generate([[spec]], Worker(), ignore, features=True)
    monkeypatch.setattr(launch, "_run_local", None)
    assert launch.compute([[spec]], features=True, title="test")


def test_killed_worker_is_named(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch, forked: None) -> None:
    """Nobody is left to do its blocks: the error tells what happened and what to do."""
    spec = small_run("workers=2")
    with monkeypatch.context() as patch:
        patch.setattr(launch, "_local_worker", die)
        with pytest.raises(WorkerLostError, match="worker . of 2 was killed by signal 9; finished blocks"):
            launch.compute([[spec]], features=True, title="test")
    assert len(unfinished(spec, features=True)) == 5
    assert launch.compute([[spec]], features=True, title="test")


def test_blocks_of_a_killed_worker_are_done_by_another(
    small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], forked: None
) -> None:
    spec = small_run("workers=2")
    monkeypatch.setattr(launch, "_local_worker", die_as_rank_one)
    assert launch.compute([[spec]], features=True, title="test")
    assert not unfinished(spec, features=True)
    told = capfd.readouterr().err
    assert "warning: worker 1 of 2 was killed by signal 9" in told and "did its blocks" in told


def test_a_busy_run_is_busy_with_several_workers_too(
    small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch, forked: None
) -> None:
    """Status 75, so that a Slurm task comes again; a mistake of any worker comes first."""
    spec = small_run("workers=2")
    monkeypatch.setattr(launch, "_local_worker", be_busy)
    with pytest.raises(BusyError, match="rank [01] is busy"):
        launch.compute([[spec]], features=True, title="test")
    monkeypatch.setattr(launch, "_local_worker", be_busy_or_wrong)
    with pytest.raises(UserError, match="rank 1 is wrong") as caught:
        launch.compute([[spec]], features=True, title="test")
    assert caught.value.status == 2


def be_busy(work, worker, link) -> None:  # type: ignore[no-untyped-def]  # a worker's signature
    link.send(BusyError(f"rank {worker.rank} is busy"))


def be_busy_or_wrong(work, worker, link) -> None:  # type: ignore[no-untyped-def]  # a worker's signature
    link.send(UserError("rank 1 is wrong") if worker.rank else BusyError("rank 0 is busy"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_busy_run_ends_with_status_75(small_run: MakeSpec, tmp_path: Path, workers: int) -> None:
    run = command(
        "run", *SETTINGS, "seeds=0-39", "block_size=8", f"workers={workers}", f"out={tmp_path / 'runs'}"
    )
    with working_on([RunStore.open(small_run())], Worker(0, 4, 0)):
        done = subprocess.run(run, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 75 and "another process works on" in done.stderr
    assert "Traceback" not in done.stderr


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_as_rank_one(work, worker, link) -> None:  # type: ignore[no-untyped-def]  # a worker's signature
    """Stands for a worker of which the second is killed at once."""
    if worker.rank == 1:
        die()
    generate(work.groups, worker, lambda *done: link.send(done), features=work.features)


def test_only_rank_zero_scores(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_run()
    for rank, reports in ((1, False), (0, True)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert launch.compute([[spec]], features=True, title="test") is reports


def test_a_launcher_of_one_starts_no_further_workers(
    small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(launch, "_run_local", None)
    assert launch.compute([[small_run("workers=2")]], features=True, title="test")


def test_rank_zero_gives_up_on_missing_ranks(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "STALL_S", 0.2)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    spec = small_run()
    # Rank 1 has begun its blocks and never ends.
    message = r"2 blocks of other ranks are missing \(first: seeds 8-15\)"
    with (
        claimed(spec, 1, 3),
        pytest.raises(UserError, match=message),
    ):
        launch.compute([[spec]], features=True, title="test")


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_torchrun(small_run: MakeSpec, tmp_path: Path, world_size: int) -> None:
    """The same bytes and one report under torchrun."""
    plain = small_run()
    generate([[plain]], Worker(), ignore, features=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={world_size}"]
    words = [
        "-m",
        "erk_bench.cli",
        "run",
        *SETTINGS,
        "seeds=0-39",
        "block_size=8",
        f"out={tmp_path / 'runs2'}",
    ]
    done = subprocess.run(
        [*torchrun, "--master_port=0", *words], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("FD-digits") == 1
    assert contents(small_run(f"out={tmp_path / 'runs2'}")) == contents(plain)


@pytest.mark.slow
def test_two_processes_on_one_run(tmp_path: Path) -> None:
    """The second one is refused by name; the first one finishes undisturbed."""
    solver, begun, hold = tmp_path / "held.py", tmp_path / "begun", tmp_path / "hold"
    solver.write_text(HELD)
    hold.touch()
    words = ["generate", *SETTINGS, f"solver={solver}:step", "seeds=0-15", "block_size=8", "workers=1"]
    run = command(*words, f"out={tmp_path / 'runs'}")
    variables = environment(BEGUN=str(begun), HOLD=str(hold))
    first = subprocess.Popen(run, env=variables, stderr=subprocess.DEVNULL)
    while not begun.exists():
        time.sleep(0.05)
        assert first.poll() is None
    second = subprocess.run(run, env=environment(), capture_output=True, text=True, check=False)
    hold.unlink()
    assert second.returncode == 75  # a scheduler may try again: erk_bench.base.errors.BusyError
    assert "another process works on" in second.stderr and f"process {first.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.wait() == 0


@pytest.mark.slow
def test_kills_and_damage_at_random_moments() -> None:
    """The script that made results/bench/kills.md, on fewer kills."""
    script = Path(__file__).parents[2] / "scripts" / "kills.py"
    words = [sys.executable, str(script), "--kills", "3", "--images", "160"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| yes |") == 5
