"""Names that become parts of file names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from erk_bench.base.config_files import config_folder
from erk_bench.base.errors import UserError
from erk_bench.base.file_names import check_file_name
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.runs.records import read_record, write_record

BAD = ["../../escaped", "/absolute", "a/b", "a\\b", "..", ".", ".hidden", "-rf", "~root", "", " a", "a\0b",
       "a\nb", "a\x1bb", "\u2028", "x" * 151, "\u00e4" * 76]  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_names(name: str) -> None:
    with pytest.raises(UserError, match="write a plain name") as caught:
        check_file_name("the name", name)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["digits-table4", "two words", "größe", "a.b_c", "x" * 150, "2026-13-45"])
def test_good_names(name: str) -> None:
    check_file_name("the name", name)


@pytest.mark.parametrize("kind", ["table", "grid"])
@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "..\\escaped", ".."])
def test_tables_and_grids_stay_in_their_folder(
    kind: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load((config_folder() / kind / "digits.yaml").read_text())
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({**content, "name": name}))
    for command in (kind, "plan", "fetch"):
        assert main([command, f"{kind}={tmp_path / 'x.yaml'}"]) == 2
        told = capsys.readouterr().err
        assert repr(name) in told and "becomes part of file names" in told and told.count("\n") == 1


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "'..\\escaped'", ".."])
def test_model_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"model.name={name}"]) == 2
    assert "model.name is" in capsys.readouterr().err


@pytest.mark.results
def test_records_of_others_name_no_other_folder(tmp_path: Path) -> None:
    """'records=FOLDER' writes each record under the names that it holds."""
    committed = next((config_folder().parent / "results" / "records" / "digits").glob("*.json"))
    record = read_record(committed)
    for field in ("run_id", "seeds"):
        write_record(tmp_path / "x.json", dataclasses.replace(record, **{field: "../escaped"}))
        with pytest.raises(UserError, match=f"{field} of .*x.json.* is '../escaped', which has a slash"):
            read_record(tmp_path / "x.json")


@pytest.mark.slow
def test_the_settings_of_every_shipped_model_are_named_well() -> None:
    for file in (config_folder() / "model").glob("*.yaml"):
        check_file_name("model", run_spec([f"model={file.stem}"], fetch=False).model.name)
