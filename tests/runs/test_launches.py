"""Who works on a run: a second process is refused, a dead one is not."""

from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from erk_bench.base import stopping
from erk_bench.base.errors import BusyError
from erk_bench.runs import launches
from erk_bench.runs.blocks import Worker
from erk_bench.runs.generate import generate
from erk_bench.runs.launches import LOCKS, working_on
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec
from tests.runs.test_generate import ignore

MakeSpec = Callable[..., RunSpec]


def test_a_second_process_is_refused(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same worker, or a worker of another world size, while one holds the run; not a fellow worker."""
    monkeypatch.setattr(launches, "GRACE_S", 0.2)
    spec, another = small_run(), small_run("schedule.num_steps=5")
    store = RunStore.open(spec)
    with working_on([RunStore.open(another), store], Worker(0, 2, 0)):
        for other in (Worker(0, 2, 0), Worker(0, 1, 0), Worker(1, 3, 1)):
            with (
                pytest.raises(BusyError, match=f"another process works on .*process {os.getpid()}"),
                working_on([RunStore.open(spec)], other),
            ):
                pass
        with working_on([RunStore.open(spec)], Worker(1, 2, 1)):
            pass
        with working_on([RunStore.open(dataclasses.replace(spec, seeds="500-507"))], Worker()):
            pass  # other seeds of the run: the next task of a sweep
    assert BusyError.status == stopping.STATUS  # a scheduler tries it again
    with working_on([RunStore.open(spec)], Worker(0, 1, 0)):
        pass
    assert not list((Path(spec.out) / LOCKS).iterdir())  # nothing is left


def test_a_file_system_without_locks_is_told(
    small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    launches._warn.cache_clear()
    monkeypatch.setattr(launches.fcntl, "flock", refuses)
    with working_on([RunStore.open(small_run())], Worker()):
        pass
    told = capsys.readouterr().err
    assert told.count("no locks here (No locks available); start only one launch") == 1


def test_a_dead_process_leaves_no_lock(small_run: MakeSpec) -> None:
    """Killed while it holds the run; its file is removed by the next."""
    spec = small_run()
    code = (
        "import os, signal, sys; from pathlib import Path; from erk_bench.runs.blocks import Worker\n"
        "from erk_bench.runs.launches import working_on; from erk_bench.runs.store import RunStore\n"
        "store = RunStore(Path(sys.argv[1]), {}, sys.argv[2])\n"
        "with working_on([store], Worker()): os.kill(os.getpid(), signal.SIGKILL)"
    )
    folder = RunStore.folder_of(spec)
    done = subprocess.run([sys.executable, "-c", code, folder, spec.seeds], check=False)
    assert done.returncode == -9
    assert [path.name[:7] for path in (Path(spec.out) / LOCKS).iterdir()] == ["launch-"]
    with working_on([RunStore.open(spec)], Worker()):
        assert len(list((Path(spec.out) / LOCKS).iterdir())) == 1
    assert not list((Path(spec.out) / LOCKS).iterdir())


def test_open_files_do_not_grow_with_the_number_of_runs(
    small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """540 runs, of which one has something to do, where a process may have 64 more files open than now."""
    spec = small_run("seeds=0-7", "correction=erk_guid", "metrics.names=[fd_digits]")
    specs = [
        dataclasses.replace(spec, correction=dataclasses.replace(spec.correction, w_con=number / 1000))
        for number in range(540)
    ]
    generate([specs[:1]], Worker(), ignore, features=True)  # what is opened once stays open
    monkeypatch.setattr(
        "erk_bench.runs.generate.check_task", lambda spec: None
    )  # takes 540 times what nobody asks here
    monkeypatch.setattr("erk_bench.runs.generate._turns", lambda groups, worker, shared, apart: iter(()))
    here = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 128
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (here + 64, hard))
    try:
        generate([specs], Worker(), ignore, features=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(Path(spec.out).glob("*/run.json"))) == 540
