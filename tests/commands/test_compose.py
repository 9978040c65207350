"""Composition: what it costs, and the settings it shows."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from erk_bench import multirun
from erk_bench.base import config_files
from erk_bench.base.fields import build
from erk_bench.cli import main
from erk_bench.commands import settings
from erk_bench.commands.compose import run_spec
from erk_bench.commands.compose_studies import grid_cells, grid_file, table_file, table_runs
from erk_bench.spec import RunSpec

GUIDED = "model=edm2-img512-s-guid-fid"

_listed: Counter[str] = Counter()
_counting = False


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _counting and event in ("os.listdir", "os.scandir"):
        _listed[str(arguments[0])] += 1


def test_a_grid_lists_the_configurations_once() -> None:
    """Each folder of configs/, and configs/ itself, for all of its 96 cells."""
    global _counting
    sys.addaudithook(_hear)  # stays for the process, so that it counts only here
    config_files._listing.cache_clear()
    _listed.clear()
    _counting = True
    try:
        _, cells = grid_cells(grid_file("digits"), [])
    finally:
        _counting = False
    folder = config_files.config_folder()
    own = {path: count for path, count in _listed.items() if Path(path).is_relative_to(folder)}
    assert len(cells) == 96 and own[str(folder)] == 1 and set(own.values()) == {1}
    assert len(own) == 1 + sum(path.is_dir() for path in folder.iterdir())


def shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(words) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


@pytest.mark.parametrize("command", ["run", "generate", "evaluate"])
@pytest.mark.parametrize(
    "words",
    [[], ["schedule.num_steps=8", "correction=erk_guid"], [GUIDED], ["solver=deis", "solver.max_order=3"],
     ["track=imagenet64", "tracker=wandb"]],
)  # fmt: skip
def test_cfg_shows_the_run(
    command: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its very spec, presets and tracks applied; nothing is made or fetched."""
    words = [*words, f"out={tmp_path / 'runs'}"]
    (content,) = shown([command, *words, "--cfg"], capsys)
    spec = run_spec(words, fetch=False)
    assert content.pop("run_id") == (None if spec.unknown_weights else spec.run_id)
    assert build(RunSpec, content) == spec
    assert shown([command, "cfg=true", *words], capsys) == shown([command, *words, "--cfg"], capsys)
    assert not list(tmp_path.iterdir())


def test_cfg_of_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    (content,) = shown(["run", GUIDED, "--cfg"], capsys)
    assert (content["seeds"], content["network_dtype"]) == ("100000-149999", "float16")
    assert (content["guidance"]["name"], content["guidance"]["weight"]) == ("cfg", 1.4)
    assert content["metrics"]["names"] == ["fid", "fd_dinov2", "is"]


def test_cfg_of_rows(capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(["table", "table=table2", "rows=0,8", "--cfg", "seeds=0-9"], capsys)
    specs = table_runs(table_file("table2"), ["seeds=0-9"], "0,8", fetch=False)[1]
    for content, spec in zip(found, specs, strict=True):
        assert content.pop("run_id") is None and build(RunSpec, content) == spec


def test_cfg_shows_errors_of_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--cfg", "correction.w_stiff=0.5"]) == 2
    assert "add correction=erk_guid" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [[GUIDED], [GUIDED, "guidance=none"], ["solver=unipc"], ["solver=deis", "schedule=polynomial"], []],
)
def test_hydras_own_view_is_what_runs(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m erk_bench.multirun --cfg job` shows the settings of the run, presets applied."""
    monkeypatch.setattr(multirun.stopping, "listen", lambda: None)
    monkeypatch.setattr(sys, "argv", ["multirun", "--cfg", "job", "--resolve", *words])
    multirun.entry()
    content = yaml.safe_load(capsys.readouterr().out)
    spec = run_spec(words, fetch=False)
    for name in ("seeds", "block_size", "samples", "network_dtype", "draw_device"):
        assert content[name] == getattr(spec, name)
    for group in ("guidance", "schedule", "metrics"):
        assert content[group]["name" if group != "metrics" else "reference"] == getattr(
            getattr(spec, group), "name" if group != "metrics" else "reference"
        )
    assert content["guidance"]["weight"] == spec.guidance.weight
    assert content["schedule"]["rho"] == spec.schedule.rho
    assert settings.groups()["model"].count(content["model"]["name"]) == 1
