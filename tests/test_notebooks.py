"""The notebooks of examples/ run from top to bottom in an empty folder, and come to what they say."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a copy of a notebook in `folder`; what it printed."""
    shutil.copy(ROOT / "examples" / f"{name}.ipynb", folder)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_no_output_is_kept(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    assert file.stat().st_size < 10_000 and "/home/" not in file.read_text()


def test_the_notebooks_are_known() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["judge_a_solver", "score_two_folders"]
    assert all(file.name in (ROOT / "docs" / "index.md").read_text() for file in NOTEBOOKS)


@pytest.mark.slow
def test_a_solver_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = run("judge_a_solver", tmp_path, monkeypatch)
    errors = {
        (int(nfe), name): float(value)
        for nfe, name, value in re.findall(r"(\d+) evaluations, (?:ralston\.)?(\w+): ([\d.]+)", printed)
    }
    assert set(errors) == {(7, "heun"), (7, "step"), (7, "deis"), (15, "heun"), (15, "step")}
    assert errors[7, "deis"] < errors[7, "step"] < errors[7, "heun"]
    assert errors[15, "step"] < errors[15, "heun"] < errors[7, "heun"]
    assert re.search(r"Ralston.*better", printed)


@pytest.mark.slow
def test_two_folders_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = run("score_two_folders", tmp_path, monkeypatch)
    assert "few: 500 images" in printed and "more: 500 images" in printed
    found = dict(re.findall(r"(few|more): FD-digits ([\d.]+)", printed))
    assert float(found["more"]) < float(found["few"])
    assert re.search(r"better|worse", printed)
