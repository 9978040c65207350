"""Manifests of tables and grids: written, read, checked, and their tasks run."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.commands.compose_studies import grid_cells, grid_file, table_file, table_runs
from erk_bench.runs.records import read_record
from erk_bench.runs.score import record_path
from erk_bench.spec import RunSpec
from erk_bench.studies.grid_file import trees
from erk_bench.studies.manifest import HEADER, read_manifest, write_manifest

BASE = ["track=digits", "block_size=8", "workers=1", "device=cpu", "metrics.num_groups=5",
        "metrics.names=[fd_digits]"]  # fmt: skip
TABLE = {
    "name": "small",
    "title": "A small table",
    "caption": "Two rows.",
    "base": BASE,
    "headline": "fd_digits",
    "rows": [[], {"set": ["correction=erk_guid", "correction.w_stiff=0.5"]}],
}
GRID = {
    "name": "small",
    "title": "A small grid",
    "caption": "Made here.",
    "base": [*BASE, "correction=erk_guid"],
    "axes": {"schedule.num_steps": [3, 4], "correction.w_stiff": [0.5, 1.0], "correction.w_con": [0.0, 0.5]},
    "panels": ["fd_digits"],
}
FEW = "seeds=0-39"


def written(folder: Path, kind: str, *words: str) -> tuple[Path, list[list[str]]]:
    """The manifest of TABLE or GRID, in a folder whose name needs quotes."""
    folder = folder / "my $HOME files"
    folder.mkdir(exist_ok=True)
    file = folder / f"{kind}.yaml"
    file.write_text(yaml.safe_dump(TABLE if kind == "table" else GRID, sort_keys=False))
    path = folder / "sweep.txt"
    out = f"out={folder / 'runs'}"
    assert main(["plan", f"{kind}={file}", "--manifest", str(path), out, *words]) == 0
    return path, read_manifest(path)


def specs_of(line: list[str]) -> list[RunSpec]:
    """The runs that a line computes, baselines included."""
    name, *settings = line
    if name == "run":
        return [run_spec(settings)]
    file, overrides = settings[0].removeprefix("grid="), settings[1:-1]
    assert settings[-1] == "views=false"
    return [spec for tree in trees(grid_cells(grid_file(file), overrides)[1]) for spec in tree]


def test_a_tables_manifest_has_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, lines = written(tmp_path, "table", FEW)
    assert f"{path}: 2 tasks; 'erk-bench task {path} 0' runs the first" in capsys.readouterr().out
    out = f"out={path.parent / 'runs'}"
    wanted = table_runs(table_file(str(path.parent / "table.yaml")), [out, FEW])[1]
    assert [specs_of(line) for line in lines] == [[spec] for spec in wanted]
    assert not (path.parent / "runs").exists()
    first = path.read_text().splitlines()[0]
    assert shlex.split(first.removeprefix(HEADER)) == [f"table={path.parent / 'table.yaml'}", out, FEW]


def test_rows_and_sets(tmp_path: Path) -> None:
    """Each seed set follows on the one before; every line has its own."""
    _, lines = written(tmp_path, "table", FEW, "sets=3")
    found = [(specs_of(line)[0].seeds, specs_of(line)[0].correction.w_stiff) for line in lines]
    assert found == [(seeds, w_stiff) for seeds in ("0-39", "40-79", "80-119") for w_stiff in (0.0, 0.5)]
    _, lines = written(tmp_path, "table", FEW, "rows=1")
    assert [specs_of(line)[0].correction.w_stiff for line in lines] == [0.5]


def test_a_grids_manifest_has_a_line_for_each_tree(tmp_path: Path) -> None:
    overrides = ["guidance=none,cfg", "correction.w_con=0,1", FEW]
    path, lines = written(tmp_path, "grid", *overrides)
    grid = grid_file(str(path.parent / "grid.yaml"))
    wanted = trees(grid_cells(grid, [*overrides, f"out={path.parent / 'runs'}"])[1])
    assert len(wanted) == 4
    assert [specs_of(line) for line in lines] == wanted


def test_a_runs_manifest(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    assert main(["plan", f"manifest={path}", *BASE, FEW]) == 0
    assert read_manifest(path) == [["run", *BASE, FEW]]


def test_manifest_of_weights_that_are_not_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Made before they are fetched, also with the = sign; every line composes."""
    path = tmp_path / "figure4.txt"
    assert main(["plan", "grid=figure4_16", f"--manifest={path}", "correction.w_stiff=0.5"]) == 0
    capsys.readouterr()
    assert main(["task", str(path)]) == 0
    assert capsys.readouterr().out == (
        "0: erk-bench grid grid=figure4_16 schedule.num_steps=16 correction.w_stiff=0.5 views=false\n"
    )


@pytest.mark.parametrize("kind", ["table", "grid"])
@pytest.mark.slow
def test_a_task_runs_its_line_alone(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [FEW, "schedule.num_steps=4"] if kind == "table" else [FEW]
    path, lines = written(tmp_path, kind, *words)
    capsys.readouterr()
    assert main(["task", str(path), "1"]) == 0
    assert capsys.readouterr().out.startswith(f"task 1 of {path}: erk-bench {shlex.join(lines[1])}\n")
    specs = specs_of(lines[1])
    assert len(specs) == (1 if kind == "table" else 5)
    assert {spec.schedule.num_steps for spec in specs} == {4}
    for spec in specs:
        assert read_record(record_path(spec)).run_spec == spec
    folders = {folder.name for folder in (path.parent / "runs").iterdir() if folder.name != ".locks"}
    assert folders == {spec.run_id for spec in specs}  # nothing of line 0, and no views


def test_all_lines_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, lines = written(tmp_path, "table", FEW)
    capsys.readouterr()
    assert main(["task", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed == "".join(f"{n}: erk-bench {shlex.join(line)}\n" for n, line in enumerate(lines))
    assert not (path.parent / "runs").exists()


@pytest.mark.parametrize("number", ["2", "-1", "x", "1.0", "²", ""])
def test_line_out_of_range(number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = written(tmp_path, "table", FEW)
    assert main(["task", str(path), number]) == 2
    assert f"'{path}' has no line {number}; it has lines 0 to 1" in capsys.readouterr().err


def test_a_line_that_no_longer_composes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told with its number before anything runs, whether one is run or all are checked."""
    path, _ = written(tmp_path, "grid", FEW)
    text = path.read_text()
    path.write_text(text.replace("schedule.num_steps=4", "schedule.num_step=4"))
    for words in (["1"], []):
        assert main(["task", str(path), *words]) == 2
        told = capsys.readouterr().err
        assert (
            f"line 1 of '{path}' no longer composes: unknown axis of grid" in told
            or "unknown setting" in told
        )
        assert "The line is: grid 'grid=" in told and "schedule.num_step=4" in told
    path.write_text(text)
    (path.parent / "grid.yaml").unlink()
    assert main(["task", str(path), "0"]) == 2
    assert f"line 0 of '{path}' no longer composes: grid is '" in capsys.readouterr().err
    assert not (path.parent / "runs").exists()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("doctor", "line 0 of .* is 'doctor', not a 'run' or 'grid' command"),
        ("rm -rf x", "line 0 of .* is 'rm -rf x', not a 'run' or 'grid' command"),
        ("run; rm", "is 'run; rm', not a 'run' or 'grid' command"),
        ("task x 0", "not a 'run' or 'grid' command"),
        ("", "line 0 of .* is '', not a 'run' or 'grid' command"),
        ("run 'seeds=0-39", "line 0 of .* has No closing quotation"),
        ("run seeds=0-39 ;rm", "line 0 of .* no longer composes: ';rm' is no setting"),
        ("run seeds=0-39 && touch made", "no longer composes: '&&' is no setting"),
        ("run --help", "no longer composes: '--help' is no setting"),
        ("run seeds=$(touch made)", "no longer composes"),
        ("run out=`touch made` solver=huen", "no longer composes"),
        ("grid grid=absent", "no longer composes: unknown grid 'absent'"),
    ],
)
def test_hostile_lines(
    line: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sweep.txt"
    path.write_text(f"{HEADER} by hand\n{line}\n")
    before = sorted(tmp_path.rglob("*"))
    assert main(["task", str(path), "0"]) == 2
    with pytest.raises(UserError, match=told):
        raise UserError(capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no manifest: its first line is ''"),
        (b"run seeds=0-39\n", "is no manifest: its first line is 'run seeds=0-39'"),
        (f"{HEADER} table=digits\n".encode(), "is empty; make it anew: erk-bench plan --manifest"),
        (b"\xff\xfe", "cannot read the manifest"),
        (None, "cannot read the manifest"),
    ],
)
def test_what_is_no_manifest(content: bytes | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_manifest(path)


@pytest.mark.parametrize(
    "words", [["run", "a=b c"], ["run", "model.name='x y'"], ["grid", 'k="$HOME"', "l=\\", "m=#n", "o=;rm"]]
)
def test_words_survive(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "sweep.txt"
    write_manifest(path, "made", [words, ["run"]])
    assert read_manifest(path) == [words, ["run"]]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plan", "table=digits", "grid=digits"], "both table and grid are given; plan one of them"),
        (["plan", "table=digits", "--manifest"], "--manifest needs a value: --manifest VALUE"),
        (["plan", "grid=digits", "sets=2", "manifest=m.txt"], "sets is 2, but only a table's manifest"),
        (["task"], "task takes a manifest and the number of a line; got 0 words"),
        (["task", "a", "0", "1"], "got 3 words"),
    ],
)  # fmt: skip
def test_mistakes(
    words: list[str],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
