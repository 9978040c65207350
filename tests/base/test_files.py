"""Temporary files of killed writers, and paths that are too long."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from erk_bench.base import files
from erk_bench.base.errors import UserError
from erk_bench.base.files import check_path, open_atomic, sweep, write_atomic
from erk_bench.cli import main

WRITER = """
import os, signal, sys
from pathlib import Path
from erk_bench.base.files import open_atomic
with open_atomic(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.readline()
"""


def writer(path: Path) -> subprocess.Popen[str]:
    """A process in the middle of a file."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    return process


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    live, dead = writer(tmp_path / "live"), writer(tmp_path / "dead")
    dead.kill()
    dead.wait()
    kept = [".bashrc.tmp", ".a.b.c.tmp", "x.tmp", ".live.1.2.tmp", ".x.00000000-1-1.0.tmp"]
    for name in kept:
        (tmp_path / name).write_text("")
    old = tmp_path / ".y.00000000-1-1.0.tmp"  # of another machine
    old.write_text("")
    os.utime(old, (time.time() - 3 * 24 * 3600,) * 2)
    assert len(list(tmp_path.iterdir())) == len(kept) + 3
    sweep(tmp_path)
    left = {path.name for path in tmp_path.iterdir()} - set(kept)
    assert len(left) == 1 and next(iter(left)).startswith(".live.")
    live.communicate("\n")
    assert (tmp_path / "live").read_bytes() == b"half"
    sweep(tmp_path / "absent")


def test_the_first_file_of_a_process_in_a_folder_removes_them(tmp_path: Path) -> None:
    dead = writer(tmp_path / "dead")
    dead.kill()
    dead.wait()
    files._swept.clear()
    write_atomic(tmp_path / "new", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_link_is_removed_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("kept")
    machine = files.identity().split("-")[0]
    link = tmp_path / f".x.{machine}-99999999-1.0.tmp"
    link.symlink_to(target)
    sweep(tmp_path)
    assert not link.is_symlink() and target.read_text() == "kept"


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    for name in ("n" * 255, "é" * 127):
        with open_atomic(tmp_path / name) as file:
            file.write(b"x")
        assert (tmp_path / name).read_bytes() == b"x"


def test_paths_that_no_file_system_takes(tmp_path: Path) -> None:
    check_path("out", tmp_path / ("n" * 255))
    with pytest.raises(UserError, match=r"out gives a file name of 256 bytes \('nnnn.*at most 255"):
        check_path("out", tmp_path / ("n" * 256))
    with pytest.raises(UserError, match="file name of 256 bytes"):
        check_path("out", Path("é" * 128))
    with pytest.raises(UserError, match="gives a path of"):
        check_path("out", Path("/".join(["n" * 200] * 20)))


LONG = "n" * 300


@pytest.mark.parametrize(
    "words",
    [
        ["run", f"out={LONG}"],
        ["run", "out=a/" + "/".join(["n" * 200] * 20)],
        ["table", f"to={LONG}"],
        ["table", f"from=results,{LONG}"],
        ["grid", f"records={LONG}"],
        ["export", f"to=a/{LONG}/b"],
        ["plan", f"--manifest={LONG}"],
        ["task", LONG],
        ["table", f"table={LONG}.yaml"],
        ["run", f"model.weights.path={LONG}.pkl"],
        ["run", f"metrics.reference={LONG}.npz"],
        ["run", f"solver.path={LONG}.py:step"],
        ["reference", f"source={LONG}", "resolution=8", "to=x.safetensors"],
        ["convert", f"{LONG}.pkl", "x.safetensors"],
    ],
)
def test_names_that_are_too_long_are_told_at_once(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and len(told) < 2000
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["table", "grid"])
def test_names_of_tables_that_are_too_long(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"table": "headline: fd_digits\nrows: [[]]", "grid": "axes: {seeds: [0-9]}\npanels: [fd_digits]"}
    file = tmp_path / "own.yaml"
    file.write_text(f"name: {'n' * 250}\ntitle: T\ncaption: C\nbase: []\n{known[kind]}\n")
    assert main([kind, f"{kind}={file}", f"out={tmp_path / 'runs'}"]) == 2
    assert "has more than 150 bytes" in capsys.readouterr().err
