"""Records of folders: found, counted, named where they are damaged, and as rows for other programs."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas
import pytest

import erk_bench
from erk_bench.base.errors import UserError
from erk_bench.base.fields import to_dict
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.runs.record_folder import Records, find_records, load_records
from erk_bench.runs.records import MetricRecord, Record, write_record
from erk_bench.spec import MetricsSpec, RunSpec, SetSpec

SMALL = ("schedule.num_steps=4", "seeds=0-39", "metrics.num_groups=4")


@cache
def spec_of(*overrides: str) -> RunSpec:
    return run_spec([*SMALL, *overrides])


def record_of(source: RunSpec | SetSpec, value: float = 1.0, **changes: Any) -> Record:
    """A record of a run or set whose metrics are made up."""
    made = Record(
        run_id=source.run_id,
        spec=to_dict(source),
        seeds=source.seeds,
        num_images=len(source.seed_range),
        nfe=7 if isinstance(source, RunSpec) else 0,
        nfe_guide=0,
        metrics={"fd_digits": MetricRecord(value, 0.25, (value - 0.25, value, value + 0.25, value))},
        seconds_per_block={"0": 2.0} if isinstance(source, RunSpec) else {},
        reference={"name": "digits", "sha256": "0" * 64},
        detectors=("digits-12345678",),
        environment={"device": "a CPU of ours", "commit": "abc"},
    )
    return dataclasses.replace(made, **changes)


def set_of(name: str = "mine", **changes: Any) -> SetSpec:
    metrics = MetricsSpec(names=("fd_digits",), reference="digits", num_groups=4)
    known = {"sha256": "1" * 64, "num_images": 40, "height": 8, "width": 8, "names_sha256": "2" * 64}
    return SetSpec(name=name, images=f"/far/{name}", metrics=metrics, **{**known, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs and a set in sub-folders, among other files."""
    top = tmp_path / "results"
    write_record(top / "a.json", record_of(spec_of(), 2.0))
    write_record(
        top / "deep" / "er" / "b.json", record_of(spec_of("guidance=cfg", "guidance.weight=1.5"), 3.0)
    )
    write_record(top / "sets" / "c.json", record_of(set_of(), 4.0))
    (top / "notes.json").write_text('{"title": "no record"}')
    (top / "list.json").write_text("[1, 2]")
    (top / "text.json").write_text("not even JSON")
    (top / "picture.png").write_bytes(b"PNG")
    return top


def test_sub_folders_are_searched_and_others_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = erk_bench.load_records(folder)
    assert [record.metrics["fd_digits"].value for record in found] == [2.0, 3.0, 4.0]
    assert [file.name for file in found.files] == ["a.json", "b.json", "c.json"]
    assert (found.skipped, found.damaged) == (3, ())
    assert repr(found) == "<3 records, 3 other files, 0 damaged>"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text[:200], "no readable record"),
        (lambda text: "", "no readable record"),
        (lambda text: text.replace("record 1", "record 9"), "format 'erk-bench record 9'"),
        (lambda text: text.replace('"format": "erk-bench record 1",', ""), "format None"),
        (lambda text: text.replace('"nfe": 7', '"nfe": "seven"'), "damaged metrics"),
        (lambda text: text.replace('"seeds": "0-39"', '"seeds": "../0-39"'), "leads into another folder"),
        (lambda text: text.replace('"num_steps": 4', '"num_steps": 1'), "damaged spec"),
        (lambda text: text.replace('"run_id"', '"run_id": "x", "more"'), "other fields than a record"),
    ],
)
def test_damaged_records_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[str], str], told: str
) -> None:
    file = folder / "a.json"
    damaged = damage(file.read_text())
    assert damaged != file.read_text()
    file.write_text(damaged)
    found = load_records(folder)
    assert len(found) == 2 and found.skipped == 3
    (line,) = found.damaged
    assert str(file) in line and told in line
    assert capsys.readouterr().err == f"warning: {line}\n"
    with pytest.raises(UserError, match="a.json"):
        load_records(file)  # given by name, it is no warning


def test_many_damaged_records_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        (folder / f"z{number}.json").write_text('{"run_id": ')
    assert len(load_records(folder).damaged) == 8
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 6 and printed[-1] == "warning: 3 more damaged records"


def test_of_a_runs_folder_only_its_records_are_read(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "digits-heun4-0123456789"
    write_record(run / "records" / "0-39.json", record_of(spec_of()))
    (run / "run.json").write_text("{}")
    (run / "png-blocks").mkdir()
    (run / "png-blocks" / "00000000.json").write_text('{"run_id": ')
    for place in (run, run.parent, run / "records" / "0-39.json"):
        found = load_records(place)
        assert (len(found), found.skipped, found.damaged) == (1, 0, ())


def test_several_places_give_each_file_once(folder: Path) -> None:
    found = load_records([folder / "deep", folder, str(folder / "a.json")])
    assert [file.name for file in found.files] == ["b.json", "a.json", "c.json"]


@pytest.mark.parametrize("name", ["a b=c.json", "[red]\n.json", "-x.json", "日本.json"])
def test_hostile_file_names(tmp_path: Path, name: str) -> None:
    write_record(tmp_path / name, record_of(spec_of()))
    found = load_records(tmp_path)
    assert found.files == (tmp_path / name,)
    assert found.to_frame()["file"][0] == str(tmp_path / name)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system takes only UTF-8")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path / "x") + b"\xff.json"))
    write_record(file, record_of(spec_of()))
    found = load_records(tmp_path)
    assert found.to_frame()["file"][0].endswith("x\\udcff.json")
    for name in ("r.csv", "r.parquet"):
        assert main(["records", str(tmp_path), f"to={tmp_path / name}"]) == 0


def test_a_place_without_records_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'nix' is not there; give a record file"):
        load_records("nix")
    with pytest.raises(UserError, match=r"no records in .*\(0 other JSON files, 0 damaged"):
        load_records(tmp_path)
    with pytest.raises(UserError, match="no records in no place"):
        load_records([])
    assert not find_records([tmp_path])


def test_records_are_a_sequence(folder: Path) -> None:
    found = load_records(folder)
    later = found[1:]
    assert isinstance(later, Records) and list(later) == list(found)[1:] and later.files == found.files[1:]
    assert found[-1].name == "mine" and found.records[0] in found


def test_a_frame_has_what_people_filter_by(folder: Path) -> None:
    frame = load_records(folder).to_frame("schedule.rho")
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 3
    run = frame[frame.guidance == "cfg"].iloc[0]
    assert (run.model, run.solver, run.steps, run.weight) == ("digits", "heun", 4, 1.5)
    assert (run.correction, run.w_stiff, run.w_con) == ("none", 0.0, 0.0)
    assert (run.seeds, run.num_images, run.nfe, run.reference) == ("0-39", 40, 7.0, "digits")
    assert (run.fd_digits, run.fd_digits_se) == (3.0, 0.25)
    assert run.protocol == "" and run.sampling_protocol == 1 and run.commit == "abc"
    assert run["schedule.rho"] == "7.0" and run.seconds_per_1000 == 1000 * 2.0 / spec_of().block_size
    assert run.run_id == spec_of("guidance=cfg", "guidance.weight=1.5").run_id
    of_set = frame[frame.name == "mine"].iloc[0]
    assert of_set.fd_digits == 4.0 and pandas.isna(of_set.steps) and pandas.isna(of_set.nfe)
    assert pandas.isna(of_set.seeds) and pandas.isna(of_set["schedule.rho"])


def test_a_corrected_run_and_a_numbered_set_in_a_frame(tmp_path: Path) -> None:
    corrected = ("correction=erk_guid", "correction.w_stiff=0.75", "correction.w_con=0.3")
    write_record(tmp_path / "a.json", record_of(spec_of(*corrected)))
    write_record(tmp_path / "b.json", record_of(set_of(numbers="100-139")))
    frame = load_records(tmp_path).to_frame()
    assert tuple(frame.loc[0, ["correction", "w_stiff", "w_con"]]) == ("erk_guid", 0.75, 0.3)
    assert frame.loc[1, "seeds"] == "100-139"  # not the places in the set


def test_metrics_that_a_record_lacks_are_missing(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", record_of(spec_of()))
    other = {"kid_digits": MetricRecord(math.nan, 1.0, (1.0,) * 4)}
    write_record(tmp_path / "b.json", record_of(spec_of("schedule.num_steps=5"), metrics=other))
    frame = load_records(tmp_path).to_frame()
    assert frame.fd_digits.tolist()[0] == 1.0 and pandas.isna(frame.fd_digits[1])
    assert pandas.isna(frame.kid_digits[0]) and frame.kid_digits_se[1] == 1.0
    assert frame.dtypes[["fd_digits", "kid_digits", "nfe"]].unique().tolist() == [float]


def test_an_unknown_setting_is_told(folder: Path) -> None:
    found = load_records(folder)
    with pytest.raises(UserError, match="unknown setting of the records 'rho'. Known: schedule.rho"):
        found.to_frame("rho")
    with pytest.raises(UserError, match="did you mean 'schedule.rho'"):
        found.to_frame("schedule.roh")


@pytest.mark.parametrize(
    ("package", "run"),
    [
        ("pandas", lambda folder: load_records(folder).to_frame()),
        ("pyarrow", lambda folder: main(["records", str(folder), "to=r.parquet"])),
    ],
)
def test_a_missing_package_is_named(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str,
    run: Callable[[Path], object],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    try:
        assert run(folder) == 2
        told = capsys.readouterr().err
    except UserError as error:
        told = str(error)
    assert f"pip install '{package}'" in told and told.count("\n") <= 1
    assert not Path("r.parquet").exists()


def test_csv_and_parquet_have_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", str(folder), "to=r.csv", "settings=schedule.rho,seeds"]) == 0
    assert capsys.readouterr().out == "3 records; 3 other JSON files are no records; written: r.csv\n"
    assert main(["records", str(folder), "to=r.parquet", "settings=schedule.rho,seeds"]) == 0
    rows = list(csv.DictReader(io.StringIO(Path("r.csv").read_text())))
    frame = pandas.read_parquet("r.parquet")
    assert list(rows[0]) == list(frame.columns)
    assert [row["fd_digits"] for row in rows] == ["2.0", "3.0", "4.0"] == frame.fd_digits.map(str).tolist()
    assert rows[2]["steps"] == "" and pandas.isna(frame.steps[2])
    assert rows[0]["file"] == str(folder / "a.json") == frame.file[0]


def test_records_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "z.json").write_text('{"run_id": ')
    assert main(["records", str(folder), "settings=schedule.rho"]) == 0
    printed, told = capsys.readouterr()
    assert spec_of().run_id in printed and "2.00 ± 0.25" in printed and "7.0" in printed
    assert "3 records; 3 other JSON files are no records; 1 damaged records are left out" in printed
    assert "z.json" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["records"], "records needs files or folders; for example"),
        (["records", "nix"], "'nix' is not there"),
        (["records", ".", "to=r.xlsx"], "ends in .csv or .parquet"),
        (["records", ".", "too=r.csv"], "unknown setting of records 'too'; did you mean 'to'?"),
        (["records", "./to=r.csv"], "'./to=r.csv' is not there"),
    ],
)
def test_wrong_words(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


@pytest.mark.results
def test_the_shipped_records(tmp_path: Path) -> None:
    """Every record of the digits table, by its solver and steps."""
    shipped = Path(__file__).parents[2] / "results" / "records" / "digits"
    frame = load_records(shipped).to_frame()
    assert len(frame) == len(list(shipped.glob("*.json")))
    plain = frame[(frame.solver == "heun") & (frame.steps == 8) & (frame.guidance == "none")]
    assert sorted(plain.correction) == ["erk_dx", "erk_guid", "none"]
    content = json.loads((shipped / "digits-heun8-f28fec5d1d.json").read_text())
    row = frame[frame.run_id == "digits-heun8-f28fec5d1d"].iloc[0]
    assert row.fd_digits == content["metrics"]["fd_digits"]["value"]
