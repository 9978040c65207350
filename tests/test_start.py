"""What starts at once: help, typing errors and completion import none of the heavy packages."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import erk_bench
from erk_bench.commands import COMMANDS

HEAVY = ("torch", "numpy", "scipy", "hydra", "omegaconf", "matplotlib", "optuna", "PIL", "diffusers", "rich",
         "wandb", "sklearn", "huggingface_hub")  # fmt: skip

QUICK = [
    [], ["--help"], ["help"], ["--version"], ["--help", "models"], ["--help", "modles"],
    *([name, "--help"] for name in COMMANDS),
    ["tabel"], ["table", "tabel=digits"], ["table", "table=digts"], ["grid", "vews=false"],
    ["run", "num_step=8"], ["run", "solver=huen"], ["run", "schedule.num_step=8"], ["run", "heun"],
    ["run", "+experiment=x"],
    ["run", "--multirun"], ["run", "hydra.run.dir=x"], ["grid", "~guidance"], ["plan", "--manifst", "x"],
    ["plan", "sets=two"], ["plan", "--manifest"], ["search", "w_con=x"], ["fetch", "imagenet"], ["reference"],
    ["export", "format=jpg"], ["qualitative", "steps=0"], ["train", "weaker.iteration=3"],
    ["doctor", "now"], ["convert"], ["convert", "a"], ["task"],
]  # fmt: skip

SCRIPT = f"""
import json, os, sys
import erk_bench, erk_bench.cli
found = {{}}
os.environ.update(_ERK_BENCH_COMPLETE="zsh_complete", COMP_WORDS="erk-bench run solver=", COMP_CWORD="2")
erk_bench.cli.entry()
found["completion"] = [0, [name for name in {HEAVY!r} if name in sys.modules]]
for words in json.loads(sys.argv[1]):
    status = erk_bench.cli.main(words)
    found[" ".join(words)] = [status, [name for name in {HEAVY!r} if name in sys.modules]]
dir(erk_bench)
found["dir"] = [0, [name for name in {HEAVY!r} if name in sys.modules]]
print(json.dumps(found))
"""


def test_nothing_heavy_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(QUICK)], capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == len(QUICK) + 2
    wrong = {"--help modles", *(" ".join(words) for words in QUICK[QUICK.index(["tabel"]) :])}
    for words, (status, modules) in found.items():
        assert modules == [], words
        assert status == (2 if words in wrong else 0), words


def test_public_names() -> None:
    """They are there at first use, in dir() and for 'from erk_bench import *'."""
    everything: dict[str, object] = {}
    exec("from erk_bench import *", everything)
    for name in erk_bench.__all__:
        assert everything[name] is getattr(erk_bench, name) and name in dir(erk_bench)
    assert erk_bench.sample.__module__ == "erk_bench.sampling.sample"
    with pytest.raises(AttributeError, match="module 'erk_bench' has no attribute 'smaple'"):
        erk_bench.smaple  # type: ignore[attr-defined]  # noqa: B018 - the error is what is tested
    with pytest.raises(ImportError, match="smaple"):
        exec("from erk_bench import smaple")
