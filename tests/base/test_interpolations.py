"""No setting reads the environment, whoever wrote it and however it is spelt."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec

SECRET = "hunter2"
READING = "reads the environment or calls something"


@pytest.mark.parametrize(
    "setting",
    [
        "model.name=${oc.env:ERK_BENCH_SECRET}",
        "model.name=x${oc.env:ERK_BENCH_SECRET}y",
        "model.name=$\\{oc.env\\:ERK_BENCH_SECRET\\}",  # Hydra takes the backslashes away
        "model.name='${oc.env:ERK_BENCH_SECRET,default}'",
        'model.name="${oc.env:ERK_BENCH_SECRET}"',
        "model.name=${oc.decode:${oc.env:ERK_BENCH_SECRET}}",
        "model.name=${oc.select:dtype}",
        "model.name=${oc.dict.keys:model}",
        "model.name=${hydra:runtime.cwd}",
        "model.name=${now:%Y}",
        "model.name=${ oc.env:ERK_BENCH_SECRET }",
        "model.name=${${dtype}:ERK_BENCH_SECRET}",
        "metrics.names=[fd_digits,'${oc.env:ERK_BENCH_SECRET}']",
        "model.weights={path:'${oc.env:ERK_BENCH_SECRET}'}",
        "tracker.tags=['${oc.env:ERK_BENCH_SECRET}']",
        "out=/tmp/${oc.env:ERK_BENCH_SECRET}",
        "solver.share=${oc.env:ERK_BENCH_SECRET}",
    ],
)
def test_calls_are_refused(
    setting: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ERK_BENCH_SECRET", SECRET)
    assert main(["plan", setting]) == 2
    told = capsys.readouterr()
    assert READING in told.err and told.err.count("\n") == 1 and SECRET not in told.out + told.err


@pytest.mark.parametrize("key", ["model@hydra", "track@_global_", "hydra/launcher", "model.${oc.env:HOME}"])
def test_keys_are_plain_names(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"{key}=digits"]) == 2
    assert key in capsys.readouterr().err


@pytest.mark.parametrize("key", ["hydra.searchpath", "hydra.run.dir", "solver._target_", "model._target_"])
def test_hydras_own_settings_are_unknown(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"{key}=os.system"]) == 2
    assert "unknown setting" in capsys.readouterr().err


def test_other_settings_may_be_named() -> None:
    assert run_spec(["out=runs/${model.name}"]).out == "runs/digits"
    with pytest.raises(UserError, match="Recursive interpolation"):
        run_spec(["model.name=${model.name}"])


@pytest.mark.parametrize("command", ["plan", "fetch", "table", "grid", "task"])
def test_files_are_refused_before_anything_is_composed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ERK_BENCH_SECRET", SECRET)
    evil = "model.name=${oc.env:ERK_BENCH_SECRET}"
    kind = "grid" if command == "grid" else "table"
    content = {"name": "x", "title": "x", "caption": "x", "base": ["track=digits"]}
    if kind == "table":
        content |= {"headline": "fd_digits", "rows": [[evil]]}
    else:
        content |= {"panels": ["fd_digits"], "axes": {"model.name": [evil.partition("=")[2], "b"]}}
    Path("x.yaml").write_text(yaml.safe_dump(content))
    Path("m.txt").write_text(f"# erk-bench manifest 1: table=x\nrun '{evil}'\n")
    assert main(["task", "m.txt"] if command == "task" else [command, f"{kind}=x.yaml"]) == 2
    told = capsys.readouterr()
    assert READING in told.err and SECRET not in told.out + told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.txt", "x.yaml"]
