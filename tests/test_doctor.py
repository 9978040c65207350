"""`erk-bench doctor`: every dependency, and sources that do not answer."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

from erk_bench.base.sources import SOURCES
from erk_bench.cli import main
from erk_bench.commands.actions import doctor


def offline(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ERK_BENCH_OFFLINE", value)


def test_sources_that_do_not_answer_are_told_last(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, "0")
    monkeypatch.setattr(doctor, "_unreachable", lambda url: "no route to host")
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"1 problems found; {len(SOURCES)} of {len(SOURCES)} sources do not answer"
    assert any(line.startswith("PROBLEM:") and "check the network" in line for line in lines)
    monkeypatch.setattr(doctor, "_unreachable", lambda url: "")
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no problems found"


def test_no_source_is_asked_offline(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, "1")
    monkeypatch.setattr(doctor, "_unreachable", lambda url: pytest.fail("asked"))
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": offline") == len(SOURCES) and printed.endswith("no problems found\n")


def test_an_address_without_an_answer() -> None:
    assert "refused" in doctor._unreachable("http://127.0.0.1:9/")
    assert doctor._unreachable("nonsense")


def test_every_dependency_is_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its version; what is missing is a problem only where every install needs it."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = [
        (name, text) for name, texts in project["optional-dependencies"].items() for text in texts
    ]  # an installation may be older than pyproject.toml
    metadata = [*project["dependencies"], *(f"{text}; extra == '{name}'" for name, text in extras)]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: metadata)
    monkeypatch.setattr(doctor, "_models", lambda assets: [])
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for name in ("safetensors", "matplotlib"):
        assert f"  {name} {importlib.metadata.version(name)}\n" in printed
    assert "  wandb " in printed and "(optional, extra 'wandb')" in printed
    for text in metadata:
        name = re.split("[<>=[;]", text)[0]
        assert f"\n  {name} " in printed or name == "erk-bench", name

    def version(name: str) -> str:
        if name in ("safetensors", "wandb"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "PROBLEM: package safetensors is not installed: pip install safetensors" in printed
    assert "  wandb not installed (optional, extra 'wandb')" in printed and "package wandb" not in printed
    assert printed.endswith("1 problems found\n")
