"""Hydra's own multirun, alone and with submitit's launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from erk_bench.runs.records import read_record

REPOSITORY = Path(__file__).parent.parent
SMALL = ["track=digits", "seeds=0-39", "block_size=20", "metrics.num_groups=5", "metrics.names=[fd_digits]",
         "workers=1", "device=cpu", "out=runs"]  # fmt: skip


def multirun(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "erk_bench.multirun", "--multirun", *SMALL, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def steps_done(folder: Path) -> list[int]:
    records = [read_record(path) for path in folder.glob("runs/*/records/0-39.json")]
    return sorted(record.run_spec.schedule.num_steps for record in records)


@pytest.mark.slow
def test_multirun_computes_every_combination(tmp_path: Path) -> None:
    done = multirun(tmp_path, "schedule.num_steps=2,3")
    assert done.returncode == 0, done.stderr
    assert steps_done(tmp_path) == [2, 3]
    assert not list(tmp_path.rglob(".hydra"))
    wrong = multirun(tmp_path, "schedule.num_steps=2", "solver=euler,huen")
    assert wrong.returncode != 0 and "huen" in wrong.stderr + wrong.stdout
    told = multirun(tmp_path, "correction.w_stiff=0.5")
    assert told.returncode == 2 and "add correction=erk_guid" in told.stderr


@pytest.mark.slow
def test_submitit_launches_the_runs(tmp_path: Path) -> None:
    """Its local launcher, which needs no cluster, takes the same way as the one for Slurm."""
    done = multirun(
        tmp_path, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "schedule.num_steps=2,3"
    )
    assert done.returncode == 0, done.stderr
    assert steps_done(tmp_path) == [2, 3]
    assert list(tmp_path.glob("results/multirun/*/.submitit/*/*_log.out"))
