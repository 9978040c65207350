"""`erk-bench compare`: every kind of place, the baseline, files, and wrong words."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import erk_bench
from erk_bench.cli import main
from erk_bench.commands.actions.compare import view_of
from erk_bench.commands.compare import COMMAND
from erk_bench.commands.compose import run_spec
from erk_bench.reporting.comparison_views import ComparisonRow
from erk_bench.runs import launch
from erk_bench.runs.export import export_png
from erk_bench.runs.records import MetricRecord, read_record, write_record
from erk_bench.runs.score import record_path, score
from erk_bench.runs.set_block import open_for
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec
from tests.runs.test_record_folder import record_of, set_of, spec_of

PAGE = "erk-bench compare "  # begins a command of the page
ROOT = Path(__file__).parents[2]
EULER, HEUN = spec_of("solver=euler"), spec_of()
METRICS = {"fd_digits": MetricRecord(2.0, 0.1, (1.9, 2.0, 2.1, 2.0))}


def keep(source: Any, out: str = "results/runs", **changes: Any) -> Path:
    """Write a record where a launch would, with the manifest of its run."""
    folder = Path(out) / source.run_id
    path = folder / "records" / f"{source.seeds}.json"
    write_record(path, record_of(source, **changes))
    (folder / "run.json").write_text("{}")
    return path


def compared(*words: str) -> tuple[ComparisonRow, ...]:
    return view_of(*COMMAND.parse(words)).rows


@pytest.fixture
def runs() -> tuple[Path, Path]:
    return keep(HEUN), keep(EULER, metrics=METRICS)


def test_files_folders_and_names_of_runs(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """All name the same two records."""
    first, second = runs
    for words in (
        [str(first), str(second)],
        [str(first.parents[1]), str(second.parents[1])],
        [HEUN.run_id, EULER.run_id],
        [str(first), "results"],  # a folder that has the first, too
        ["results", f"baseline={first}"],
        [str(second), f"baseline={HEUN.run_id}"],
    ):
        (row,) = compared(*words)
        assert (row.record, row.baseline, row.difference[0]) == ("Euler", "Heun", 1.0)
        assert (row.verdict, row.pairing, row.run_id) == ("worse", "paired", EULER.run_id)


def test_everything_is_written(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", HEUN.run_id, EULER.run_id, "to=a/b", "style=paper"]) == 0
    assert "Euler against Heun" in capsys.readouterr().out
    names = {path.name for path in Path("a/b").iterdir()}
    assert names == {"compare.md", "compare.csv", "compare.tex",
                     *(f"compare-forest.{form}" for form in ("png", "svg", "pdf"))}  # fmt: skip
    before = set(Path().iterdir())
    assert main(["compare", HEUN.run_id, EULER.run_id]) == 0
    assert set(Path().iterdir()) == before  # only shown


@pytest.mark.results
def test_rows_of_the_digits_table() -> None:
    """From its reference records, where nothing has been computed."""
    rows = compared("digits:0,1", "metrics=fd_digits,recall_digits")
    content = [read_record(Path(name)) for name in (rows[0].file, rows[0].base_file)]
    assert [row.metric for row in rows] == ["fd_digits", "recall_digits"]
    values = [record.metrics["fd_digits"].value for record in content]
    assert rows[0].difference[0] == values[0] - values[1]
    assert ROOT in Path(rows[0].file).parents


def test_rows_of_a_table_of_ones_own(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels are names; records are those of the folder of runs, or of from=FOLDER."""
    Path("mine.yaml").write_text(
        "name: mine\ntitle: Mine\ncaption: Rows.\nheadline: fd_digits\n"
        "base: [schedule.num_steps=4, seeds=0-39, metrics.num_groups=4]\n"
        "rows: [{set: [solver=heun], label: ours}, [solver=euler], [solver=dpm2]]\n"
    )
    (row,) = compared("mine.yaml:0-1")
    assert (row.record, row.baseline) == ("Euler", "ours")
    keep(HEUN, "a b,[c]=d")
    keep(EULER, "a b,[c]=d", metrics=METRICS)
    assert compared("mine.yaml:0-1", "out=a b,[c]=d")[0].difference == row.difference
    write_record(tmp_path / "kept" / "x.json", record_of(EULER, 7.0))
    (row,) = compared("mine.yaml:0,1", f"from={tmp_path / 'kept'},nowhere")
    assert row.value[0] == 7.0
    assert main(["compare", "mine.yaml:0", "mine.yaml:2"]) == 2
    told = capsys.readouterr().err
    assert "row 2 of the table 'mine.yaml'" in told and "table=mine.yaml rows=2" in told


def test_seeds_choose_a_record(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    other = spec_of("seeds=40-79")
    path = keep(other)
    assert path.parents[1] == runs[0].parents[1]
    assert main(["compare", HEUN.run_id, EULER.run_id]) == 2
    assert (
        "has 2 records, of seeds 0-39, 40-79 and references digits; choose with seeds="
        in capsys.readouterr().err
    )
    (row,) = compared(HEUN.run_id, EULER.run_id, "seeds=0-39")
    assert row.seeds == row.base_seeds == "0-39"
    (row,) = compared(str(path), EULER.run_id)
    assert row.pairing == "unpaired: other seeds"
    assert main(["compare", HEUN.run_id, EULER.run_id, "seeds=7-9"]) == 2
    assert (
        "has no record of seeds=7-9; it has seeds 0-39, 40-79 and references digits"
        in capsys.readouterr().err
    )
    assert main(["compare", "results", "seeds=7-9"]) == 2
    assert "'results' has no record of seeds=7-9" in capsys.readouterr().err


def save(folder: Path, seed: int, count: int = 20) -> Path:
    """Pictures of noise."""
    folder.mkdir()
    noise = np.random.default_rng(seed).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    for number, image in enumerate(noise):
        Image.fromarray(image).save(folder / f"{number:06d}.png")
    return folder


def test_sets_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By their place, once they are scored; file names that are the same make pairs."""
    places = [save(tmp_path / "one", 0), save(tmp_path / "two", 1)]
    assert main(["compare", *map(str, places)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "have no record in 'results/runs'; score them first" in told[-1]
    sets = [open_for(str(place), "mine", None) for place in places]
    sources = [set_of(place.name, sha256=images.content_sha256, names_sha256=images.names_sha256)
               for place, images in zip(places, sets, strict=True)]  # fmt: skip
    for source in sources:
        keep(source, "mine")
    (row,) = compared(*map(str, places), "out=mine")
    assert (row.record, row.baseline, row.pairing) == ("two", "one", "paired")
    of_one = Path("mine") / sources[0].run_id / "records"
    write_record(of_one / "more.json", record_of(sources[0], reference={"name": "cats", "sha256": "9" * 64}))
    assert main(["compare", *map(str, places), "out=mine"]) == 2
    assert "has 2 records, of seeds 0-39 and references digits, cats; choose" in capsys.readouterr().err
    (again,) = compared(*map(str, places), "out=mine", "reference=digits")
    assert again == row


@pytest.mark.slow
def test_a_run_and_its_export_are_a_pair(small_run: Callable[..., RunSpec], tmp_path: Path) -> None:
    """Scored as a run and as files, they are equal."""
    spec = small_run("metrics.names=[fd_digits]")
    launch.compute([[spec]], features=True, title="run")
    score(spec)
    export_png(spec, tmp_path / "png")
    erk_bench.score(tmp_path / "png", "digits", ["fd_digits"], num_groups=5, out=spec.out)
    (row,) = compared(str(tmp_path / "png"), spec.run_id, f"out={spec.out}")
    assert (row.record, row.verdict, row.pairing) == (
        "digits, Heun, 4 steps, no guidance, seeds 0-39",
        "equal",
        "paired",
    )


def test_a_row_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    """By its place in the folder of runs, or by its name in kept records."""
    keep(HEUN)
    write_record(Path("kept/a.json"), record_of(set_of("theirs"), 3.0))
    Path("mine.yaml").write_text(
        "name: mine\ntitle: Mine\ncaption: Rows.\nheadline: fd_digits\n"
        "base: [schedule.num_steps=4, seeds=0-39, metrics.num_groups=4, 'metrics.names=[fd_digits]']\n"
        "rows: [[solver=heun], {images: theirs}]\n"
    )
    (row,) = compared("mine.yaml:0,1", "from=kept")
    assert (row.record, row.difference[0]) == ("theirs", 2.0)
    assert row.pairing == "unpaired: seeds and names"
    assert main(["compare", "mine.yaml:0,1"]) == 2
    assert "'theirs' is not there" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a b=c.json", "[red]$x$_&.json", "x:0", "日本.json"])
def test_hostile_file_names(name: str) -> None:
    """Twice the same run, so that files name them."""
    for folder in ("one", "two"):
        write_record(Path(folder) / f"{name}.json" if name == "x:0" else Path(folder) / name, record_of(HEUN))
    words = ["one", "two"] if name == "x:0" else [f"one/{name}", f"two/{name}"]
    (row,) = compared(*words)
    assert row.verdict == "equal" and row.record == "Heun, two"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "compare needs files or folders; for example"),
        (["{heun}"], "there is one record to compare"),
        (["{heun}", "{heun}"], "there is one record to compare"),
        (["{heun}", "nix"], "'nix' is not there; give a record file"),
        (["{heun}", "digts:0"], "unknown table 'digts'; did you mean 'digits'"),
        (["{heun}", "digits:999"], "rows is '999'; expected numbers from 0 to"),
        (["{heun}", "bseline=x"], "unknown setting of compare 'bseline'; did you mean 'baseline'"),
        (["{heun}", "{euler}", "metrics=fid"], "unknown metric of the records 'fid'"),
        (["{heun}", "{euler}", "style=big"], "unknown style 'big'"),
        (["{heun}", "{euler}", "baseline=results", "all_pairs=true"], "leave out baseline or all_pairs"),
        (["{heun}", "baseline=results"], "baseline 'results' has 2 records; name one of them"),
        (["{heun}", "empty"], "has no images"),
        (["{heun}", "text.txt"], "text.txt"),
    ],
)
def test_wrong_words(
    runs: tuple[Path, Path], words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("text.txt").write_text("")
    names = {"heun": HEUN.run_id, "euler": EULER.run_id}
    assert main(["compare", *(word.format(**names) for word in words)]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_a_run_without_a_record_and_a_damaged_one(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    runs[0].unlink()
    assert main(["compare", HEUN.run_id, EULER.run_id]) == 2
    assert "has no record yet" in capsys.readouterr().err
    runs[1].write_text('{"run_id": ')
    assert main(["compare", EULER.run_id, HEUN.run_id]) == 2
    assert "is no readable record" in capsys.readouterr().err
    assert main(["compare", "results", EULER.run_id]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("erk-bench: there are no records in 'results'")


def test_a_run_that_was_scored_is_found_by_its_row() -> None:
    """`record_path` is where launches write."""
    spec = run_spec(["schedule.num_steps=4", "seeds=0-39"])
    assert record_path(spec) == RunStore.folder_of(spec) / "records" / "0-39.json"


@pytest.mark.results
def test_the_commands_of_the_page() -> None:
    """docs/compare.md, each command as it stands there."""
    text = (ROOT / "docs/compare.md").read_text().replace("results/records", str(ROOT / "results/records"))
    commands = [shlex.split(line, comments=True)[2:] for line in text.splitlines() if PAGE in line]
    assert len(commands) == 6
    for words in commands:
        assert view_of(*COMMAND.parse([*words, *(["metrics=fd_digits"] if len(words) < 3 else [])])).rows
