"""Tab completion: what is offered, and how bash asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from erk_bench.commands import COMMANDS
from erk_bench.commands.completion import candidates, complete
from erk_bench.commands.settings import groups


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", [f"{name} " for name in (*COMMANDS, "--help", "--version")]),
        ("ta", ["table ", "task "]),
        ("table ta", ["table="]),
        ("table table=digits-", ["table=digits-angle ", "table=digits-corrections ",
                                    "table=digits-guidance ", "table=digits-networks ",
                                    "table=digits-rivals ",
                                    "table=digits-table4 "]),
        ("table --ta", ["--table="]),
        ("table --table=digits-t", ["--table=digits-table4 "]),
        ("table sampling=", ["sampling=true ", "sampling=false "]),
        ("run solver=heun", ["solver=heun ", "solver=heun_adaptive "]),
        ("run model=edm-im", ["model=edm-imagenet-64x64-cond-adm "]),
        ("run schedule.nu", ["schedule.num_steps="]),
        ("run solver.s_", ["solver.s_churn=", "solver.s_min=", "solver.s_max=", "solver.s_noise="]),
        ("run solv", ["solver=", "solver.denoise_to_zero=", "solver.afs=", "solver.s_churn=", "solver.s_min=",
                      "solver.s_max=", "solver.s_noise="]),
        ("run compile=", ["compile=true ", "compile=false "]),
        ("run seeds=0-9 block", ["block_size="]),
        ("export format=", ["format=png ", "format=npz "]),
        ("fetch imagenet5", ["imagenet512 "]),
        ("fetch model=digits-", [f"model=digits-seed{seed} " for seed in (11, 12, 13)]),
        ("plan grid=digits_c", ["grid=digits_choice "]),
        ("train weaker.i", ["weaker.iterations="]),
        ("run --h", ["--help "]),
        ("nothing x", []),
        ("doctor x", []),
        ("run out=x", []),
    ],
)  # fmt: skip
def test_candidates(line: str, found: list[str]) -> None:
    *before, word = line.split(" ")
    assert candidates(COMMANDS, before, word) == found


def test_every_option_and_choice_is_offered() -> None:
    for name, command in COMMANDS.items():
        offered = candidates(COMMANDS, [name], "")
        assert {f"{option}=" for option in command.rows} <= set(offered)
    for group, choices in groups().items():
        assert candidates(COMMANDS, ["run"], f"{group}=") == [f"{group}={choice} " for choice in choices]


def test_what_shells_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_WORDS", "erk-bench table table=digits-t")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert complete(COMMANDS, "zsh_complete") == "plain\ntable=digits-table4 \n_"
    monkeypatch.setenv("COMP_WORDS", "erk-bench table table=digits-t")
    monkeypatch.setenv("COMP_CWORD", "table=digits-t")
    assert complete(COMMANDS, "fish_complete") == "plain,table=digits-table4"
    for shell in ("bash", "zsh", "fish"):
        assert f"{shell}_complete" in complete(COMMANDS, f"{shell}_source")
    assert complete(COMMANDS, "tcsh_source") == complete(COMMANDS, "bash") == ""


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        (["ta"], ["table ", "task "]),
        (["table", "table", "=", "digits-t"], ["digits-table4 "]),  # '=' breaks words in bash
        (["run", "solver", "="], [f"{name} " for name in groups()["solver"]]),
        (["run", "schedule.nu"], ["schedule.num_steps="]),
    ],
)
@pytest.mark.slow
def test_bash(words: list[str], reply: list[str], tmp_path: Path) -> None:
    """The script that bash reads, asked as bash asks it."""
    program = tmp_path / "erk-bench"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m erk_bench.cli "$@"\n')
    program.chmod(0o755)
    asked = " ".join(["erk-bench", *words])
    script = (
        'eval "$(_ERK_BENCH_COMPLETE=bash_source erk-bench)"\n'
        f"COMP_WORDS=({asked}); COMP_CWORD={len(words)}\n"
        '_erk_bench_completion erk-bench; printf "%s|" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "".join(f"{each}|" for each in reply), done.stderr
