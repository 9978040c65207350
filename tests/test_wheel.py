"""An installed wheel has what the commands need: configurations and reference records."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(file for file in (ROOT / "examples").iterdir() if file.suffix in (".py", ".yaml"))


def example_commands(file: Path) -> list[str]:
    """The commands that an example's first lines name, without those that need files of the reader's."""
    lines = (line.strip().removeprefix("#").strip() for line in file.read_text().splitlines())
    return [line for line in lines if line.startswith("erk-bench ") and "IMAGES" not in line]


@pytest.mark.slow
@pytest.mark.results
def test_table_of_an_installed_wheel_compares(tmp_path: Path) -> None:
    """From an empty folder: the records come from the package, and the results go to that folder."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # Its build needs hatchling, which pip fetches.
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path / "dist"), str(ROOT)], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
    assert wheel.stat().st_size < 6e6
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as stored:
        stored.extractall(site)
    tables = {
        re.search(r"^reference: (\S+)", file.read_text(), re.M)
        for file in (ROOT / "configs" / "table").iterdir()
    }
    for found in filter(None, tables):
        assert len(list((site / "erk_bench" / found[1]).glob("*.json"))) == len(
            list((ROOT / found[1]).glob("*.json"))
        )
    empty = tmp_path / "empty"
    empty.mkdir()
    settings = {**os.environ, "PYTHONPATH": str(site), "ERK_BENCH_OFFLINE": "1"}

    def table(*words: str) -> str:
        command = [sys.executable, "-m", "erk_bench.cli", "table", "rows=0,1", *words]
        done = subprocess.run(command, cwd=empty, env=settings, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "2 of 2 rows reproduced; reference records: " + str(site) in table()
    assert (empty / "results" / "tables" / "digits.md").is_file() or list(empty.rglob("digits.md"))
    assert not list((site / "erk_bench" / "results").glob("tables"))
    assert "2 of 2 rows are not compared with the reference records" in table("seeds=0-499")

    commands = [line for file in EXAMPLES for line in example_commands(file)]
    assert len(commands) >= len(EXAMPLES)
    for file in EXAMPLES:
        shutil.copy(file, empty)
    for command in commands:
        words = shlex.split(command)[1:]
        small = ["seeds=0-499"] if words[0] in ("run", "table", "grid") else []
        done = subprocess.run(
            [sys.executable, "-m", "erk_bench.cli", *words, *small],
            cwd=empty, env=settings, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, command + done.stdout + done.stderr
        assert not (site / "erk_bench" / "results" / "runs").exists()


def test_every_example_says_how_it_is_run() -> None:
    assert EXAMPLES and all(example_commands(file) for file in EXAMPLES)
