"""No test reads or writes the checkout's runs, the cache, the home or the environment of its caller."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from erk_bench.cli import main
from tests.conftest import ISOLATION
from tests.isolation import ROOT

SMALL = [
    "schedule.num_steps=2",
    "device=cpu",
    "workers=1",
    "metrics.names=[fd_digits]",
    "metrics.num_groups=2",
]

# What a launcher, a scheduler, a tracker, a hub, a terminal or a login leaves in the environment.
HOSTILE = {
    "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "MASTER_ADDR": "nowhere", "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "3", "WANDB_API_KEY": "k" * 40, "WANDB_MODE": "online", "ERK_BENCH_OFFLINE": "",
    "ERK_BENCH_MIRROR_EDM2": "http://127.0.0.1:9/", "ERK_BENCH_SWEEP": "theirs", "HF_HOME": "/nowhere",
    "XDG_CACHE_HOME": "/nowhere", "http_proxy": "http://127.0.0.1:9/", "COLUMNS": "20", "FORCE_COLOR": "1",
    "PYTHONIOENCODING": "ascii", "HYDRA_FULL_ERROR": "1", "MPLBACKEND": "nothing", "DRY_RUN": "1",
}  # fmt: skip


def hostile(folder: Path) -> dict[str, str]:
    """The environment of a careless user, whose home and cache lie in `folder`."""
    own = {"HOME": str(folder / "home"), "ERK_BENCH_CACHE": str(folder / "cache")}
    return {"PATH": os.environ["PATH"], **HOSTILE, **own}


def test_every_test_has_places_of_its_own(tmp_path: Path) -> None:
    assert not any(Path.cwd().iterdir()) and not any(Path.home().iterdir())
    assert str(Path.home()) != ISOLATION.home
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & set(os.environ)
    assert not any(name.startswith(("SLURM_", "WANDB_", "XDG_", "HF_")) for name in os.environ)
    folder = Path(os.environ["ERK_BENCH_CACHE"]).parent
    assert folder != tmp_path and Path.cwd().parent == Path.home().parent == folder


@pytest.mark.slow
def test_the_default_folder_is_the_tests_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of the default folder, in this process and in another, are in the test's working folder."""
    assert main(["run", *SMALL, "seeds=0-7", "block_size=4"]) == 0
    (made,) = Path("results/runs").glob("digits-*")
    command = [sys.executable, "-m", "erk_bench.cli", "plan", *SMALL, "seeds=0-7", "block_size=3"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "was made with block_size 4, not 3" in told.stderr + told.stdout
    assert made.is_dir() and not made.resolve().is_relative_to(ROOT)


def test_what_belongs_to_others_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run of the checkout that is opened, listed or made; the home; a program started in the checkout."""
    runs = ROOT / "results" / "runs"
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(ISOLATION, "home", str(home))
    monkeypatch.setattr(ISOLATION, "own", (str(home / "python"),))
    attempts = {
        "open": lambda: (runs / "none-there" / "run.json").read_bytes(),
        "os.mkdir": lambda: (runs / "none-there" / "deep").mkdir(),
        "os.scandir": lambda: os.scandir(runs / "none-there"),
        "open ": lambda: (home / ".netrc").write_text("mine"),
    }
    for event, attempt in attempts.items():
        with suppress(FileNotFoundError):
            attempt()
        assert [found for found in ISOLATION.touched if found.startswith(event)], event
        ISOLATION.touched.clear()
    with suppress(FileNotFoundError):
        (ROOT / "results" / "none-there.csv").read_bytes()
    assert ISOLATION.touched == [] and "none-there.csv" in ISOLATION.results.pop()
    subprocess.run([sys.executable, "-c", ""], cwd=ROOT, check=True)
    assert "a program in the checkout" in ISOLATION.touched.pop()
    (tmp_path / "mine").write_text("")
    assert ISOLATION.touched == []


@pytest.mark.slow
def test_tests_pass_whatever_the_caller_has(tmp_path: Path) -> None:
    """In a folder whose runs have another block size, with a hostile environment; nothing there changes.

    The environment and the working folder are all that ties a test to its caller: a few files stand for all.
    """
    default = ["track=digits", "seeds=0-9", "block_size=5", *SMALL]
    command = [sys.executable, "-m", "erk_bench.cli", "run", *default, "schedule.num_steps=32"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before
    files = ["studies/test_simulate.py", "runs/test_cost.py", "test_isolation.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}",
         f"--config-file={ROOT / 'pyproject.toml'}", f"--basetemp={tmp_path.parent / 'inner'}",
         *(str(ROOT / "tests" / file) for file in files)],
        cwd=tmp_path, env=hostile(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
