"""Baselines and labels of tables: what each row is compared with, and how every view says so."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import yaml

from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.commands.compose_studies import table_file, table_runs
from erk_bench.reporting.latex import latex
from erk_bench.reporting.series import series_names
from erk_bench.reporting.table_csv import to_csv
from erk_bench.reporting.table_views import TableView, markdown
from erk_bench.runs.records import read_record
from erk_bench.studies.table import build_view
from erk_bench.studies.table_file import RowSpec, TableFile, read_table
from erk_bench.studies.verdicts import paired_difference, verdict
from tests.studies.test_table import corrected, plain_spec, record_of

EXAMPLES = Path(__file__).parents[2] / "examples"
HEUN = RowSpec(("solver=heun",))
EULER = RowSpec(("solver=euler", "schedule.num_steps=16"), label="Mine")
TABLE = TableFile("made", "A made table", "Made here.", (), "fd_digits", (HEUN, EULER))


def view_of(*rows: RowSpec, baseline: str | int | None = None) -> TableView:
    """The table of Heun at 8 steps, Euler at 16, of the same cost, and Heun with a correction."""
    specs = [plain_spec(), plain_spec("solver=euler", "schedule.num_steps=16"), corrected(plain_spec())]
    records = [record_of(spec, value) for spec, value in zip(specs, (5.0, 4.0, 3.0), strict=True)]
    records = [dataclasses.replace(record, nfe=15) for record in records[: len(rows)]]
    table = dataclasses.replace(TABLE, rows=rows, baseline=baseline)
    return build_view(table, rows, [[record] for record in records], {})


CORRECTED = RowSpec(("correction=erk_guid",))


@pytest.mark.parametrize(
    ("baseline", "differences", "named"),
    [
        (None, [None, None, -2.0], ["", "", ""]),
        ("solver", [None, None, -2.0], ["", "", "Heun, 8 steps"]),
        ("cost", [None, -1.0, -2.0], ["", "Heun, 8 steps", "Heun, 8 steps"]),
        (0, [None, -1.0, -2.0], ["", "Heun, 8 steps", "Heun, 8 steps"]),
        ("Mine", [1.0, None, -1.0], ["Mine, 16 steps", "", "Mine, 16 steps"]),
    ],
)
def test_baselines_of_a_table(
    baseline: str | int | None, differences: list[float | None], named: list[str]
) -> None:
    view = view_of(HEUN, EULER, CORRECTED, baseline=baseline)
    assert [row.difference and round(row.difference[0], 9) for row in view.rows] == differences
    assert [row.baseline for row in view.rows] == named
    for row in view.rows:
        assert row.verdict == (
            "" if row.difference is None else "better" if row.difference[0] < 0 else "worse"
        )
    assert ("| baseline |" in markdown(view)) == (baseline is not None)
    assert ("baseline" in to_csv(view).splitlines()[0].split(",")) == (baseline is not None)
    # Only Heun with and without correction took turns while they were timed.
    assert [row.overhead is not None for row in view.rows] == [False, False, baseline != "Mine"]


def test_a_row_has_a_baseline_of_its_own() -> None:
    view = view_of(HEUN, dataclasses.replace(EULER, baseline=0), CORRECTED)
    assert [row.baseline for row in view.rows] == ["", "Heun, 8 steps", "Heun, 8 steps"]
    assert [row.difference and round(row.difference[0], 9) for row in view.rows] == [None, -1.0, -2.0]


def test_labels_stand_in_every_view() -> None:
    view = view_of(HEUN, dataclasses.replace(EULER, label="Mine (fast)"))
    assert view.rows[1].method == "Mine (fast)"
    assert "| Mine (fast) |" in markdown(view) and "Mine (fast)" in latex(view)
    assert ",Mine (fast)," in to_csv(view)
    assert series_names(view.rows, lambda row: row.cost) == ["Heun", "Mine (fast)"]


def test_cost_needs_the_same_guidance() -> None:
    rows = (HEUN, EULER)
    records = [record_of(plain_spec("guidance=cfg")), record_of(plain_spec("solver=euler"))]
    records = [dataclasses.replace(record, nfe=8, nfe_guide=0) for record in records]
    table = dataclasses.replace(TABLE, baseline="cost")
    view = build_view(table, rows, [[record] for record in records], {})
    assert [row.difference for row in view.rows] == [None, None]


def test_settings_that_make_rows_equal_leave_the_baseline_found() -> None:
    """The row named is the run of an earlier row now, and stands under that one's name."""
    rows = (HEUN, RowSpec(("solver=heun", "correction=erk_guid"), label="base"), EULER)
    heun, euler = record_of(plain_spec(), 5.0), record_of(plain_spec("solver=euler"), 4.0)
    table = dataclasses.replace(TABLE, rows=rows, baseline="base")
    view = build_view(table, rows, [[heun], [heun], [euler]], {})
    assert [(row.method, row.baseline) for row in view.rows] == [("Heun", ""), ("Mine", "Heun, 8 steps")]


def test_a_label_goes_where_settings_change_the_row() -> None:
    table = dataclasses.replace(TABLE, baseline="Mine")
    (_, row), _ = table_runs(table, ["seeds=0-99"], fetch=False)
    assert row.label == "Mine"
    (heun, row), _ = table_runs(table, ["solver=dpm2"], fetch=False)
    assert row.label == "" and table.baseline_of(heun) == EULER


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"baseline": "Mien"}, "unknown baseline 'Mien'; did you mean 'Mine'.*solver, cost, Mine, 0 to 1"),
        ({"baseline": 2}, "baseline is 2; expected the number of a row, 0 to 1"),
        ({"baseline": -1}, "baseline is -1"),
        ({"baseline": True}, "baseline is True; expected one of: str, int"),
        ({"baseline": [0]}, r"baseline is \[0\]"),
        ({"baseline": ""}, "unknown baseline ''"),
        ({"rows": [[], {"set": [], "baseline": 1}]}, "the row '1' has itself as its baseline"),
        ({"rows": [[], {"set": [], "baseline": "csot"}]}, "unknown baseline 'csot'; did you mean 'cost'"),
        ({"rows": [{"set": [], "label": "cost"}]}, "label is 'cost', which is a rule"),
        ({"rows": [{"set": [], "label": "a\nb"}]}, "label has 'a.*one line"),
        ({"rows": [{"set": [], "label": 5}]}, r"rows\[0\].label is 5; expected str"),
        (
            {"baseline": "A", "rows": [{"set": [], "label": "A"}] * 2},
            "'A', the label of 2 rows; give the number",
        ),
    ],
)
def test_bad_labels_and_baselines(entry: dict[str, object], told: str, tmp_path: Path) -> None:
    content = {"name": "mine", "title": "Mine", "caption": "Mine.", "base": [], "headline": "fd_digits"}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**content, "rows": [[], {"set": [], "label": "Mine"}], **entry}))
    with pytest.raises(UserError, match=told) as caught:
        read_table(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_files_beside_a_table_are_found_from_anywhere(tmp_path: Path) -> None:
    """Also of NAME=FILE,NAME=FILE; what is not there is left as it is."""
    (tmp_path / "ref.npz").write_bytes(b"")
    row = ["metrics.reference=inception=ref.npz,digits=gone.npz", "model=digits", "solver.r=0.5"]
    content = {"name": "mine", "title": "Mine", "caption": "Mine.", "headline": "fd_digits", "rows": [row]}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**content, "base": ["metrics.real_features=ref.npz"]}))
    table = read_table(file)
    assert table.base == (f"metrics.real_features={tmp_path}/ref.npz",)
    named = f"metrics.reference=inception={tmp_path}/ref.npz,digits=gone.npz"
    assert table.rows[0].set == (named, "model=digits", "solver.r=0.5")


# The example, run from another folder


def test_paths_start_from_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beside the table is found from anywhere; others start from where the command runs."""
    folder, elsewhere = tmp_path / "my tables", tmp_path / "elsewhere"
    for made in (folder, elsewhere):
        made.mkdir()
    (folder / "mine.py").write_text((EXAMPLES / "my_solver.py").read_text())
    (elsewhere / "other.py").write_text((EXAMPLES / "my_solver.py").read_text() + "\n")
    file = folder / "mine.yaml"
    rows = [["solver=mine.py:step"], ["solver.path=mine.py:step"], ["solver=other.py:step"], ["out=runs"]]
    content = {"name": "mine", "title": "Mine", "caption": "Mine.", "base": [], "headline": "fd_digits"}
    file.write_text(yaml.safe_dump({**content, "rows": rows, "reference": "records"}))
    monkeypatch.chdir(elsewhere)
    table = table_file("../my tables/mine.yaml")
    assert table.reference == "../my tables/records"
    specs = table_runs(table, [], fetch=False)[1]
    assert specs[0].solver.path == specs[1].solver.path == "../my tables/mine.py:step"
    assert specs[2].solver.path == "other.py:step" and specs[3].out == "runs"
    # The identity of a run has the hash of the file, not its path.
    here = run_spec([f"solver={folder / 'mine.py'}:step"])
    assert specs[0].run_id == here.run_id
    assert table_file("digits").reference.endswith("results/records/digits")  # type: ignore[union-attr]  # it has one


@pytest.mark.slow
def test_a_solver_of_ones_own_beside_heun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example: each of Ralston's rows has its difference from Heun's of the same cost, and a verdict."""
    monkeypatch.chdir(tmp_path)
    words = [f"table={EXAMPLES / 'my_table.yaml'}", "rows=0,1", "seeds=0-99", "block_size=50"]
    assert main(["table", *words, "out=runs", "to=views", "records=records"]) == 0
    with (tmp_path / "views" / "my_table.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    records = [read_record(path) for path in Path("records").glob("*.json")]
    assert len(rows) == len(records) == 2
    assert [row["method"] for row in rows] == ["Heun", "Ralston"]
    assert [row["baseline"] for row in rows] == ["", "Heun, 4 steps"]
    heun, row = rows
    assert heun["nfe"] == row["nfe"] and heun["difference"] == ""
    (mine,) = (record for record in records if record.run_spec.solver.path)
    (other,) = (record for record in records if not record.run_spec.solver.path)
    difference = paired_difference(mine, other, "fd_digits")
    assert (float(row["difference"]), float(row["difference_se"])) == pytest.approx(difference)
    assert row["verdict"] == verdict(difference, lower=True)
    for form in ("md", "tex"):
        assert "Ralston" in (tmp_path / "views" / f"my_table.{form}").read_text()
    assert main(["table", *words, "out=runs", "from=records", "to=again"]) == 0
    assert (tmp_path / "again" / "my_table.md").read_text() == (
        tmp_path / "views" / "my_table.md"
    ).read_text()


def test_the_documented_example_is_a_table(tmp_path: Path) -> None:
    text = (EXAMPLES.parent / "docs" / "tables.md").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(text.partition("```yaml\n")[2].partition("```")[0])
    whole = read_table(EXAMPLES / "my_table.yaml")
    shown = read_table(file)
    fields = ("name", "title", "caption", "base", "headline", "baseline", "figure")
    assert all(getattr(shown, name) == getattr(whole, name) for name in fields)
    assert whole.baseline_of(whole.rows[6]) == whole.rows[5]
    for item in dataclasses.fields(TableFile):
        assert f"`{item.name}`" in text
    for item in dataclasses.fields(RowSpec):
        assert f"`{item.name}`" in text
