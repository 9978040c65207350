"""Records: written and read back the same, checked when read, explaining themselves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.base.fields import to_dict
from erk_bench.runs.records import (
    FORMAT,
    PACKAGES,
    MetricRecord,
    Record,
    environment,
    read_record,
    write_record,
)
from erk_bench.spec import PROTOCOL, RunSpec


def record_of(spec: RunSpec, seconds: dict[str, float] | None = None) -> Record:
    return Record(
        run_id=spec.run_id,
        spec=to_dict(spec),
        seeds=spec.seeds,
        num_images=len(spec.seed_range),
        nfe=7,
        nfe_guide=3,
        metrics={
            "fd_digits": MetricRecord(1 / 3, 0.1, (0.1 + 0.2, 1e-17, -2.5)),
            "kid_digits": MetricRecord(-1e-5, 2e-5, (0.0, 1.0, 2.0)),
        },
        seconds_per_block={"0": 1.25, "1": 2.5} if seconds is None else seconds,
        reference={"name": "digits", "sha256": "0" * 64},
        detectors=("digits-12345678",),
        environment={"device": "some CPU", "commit": None, "dirty": None},
        created="2026-01-02T03:04:05+00:00",
    )


@pytest.fixture
def written(small_run: Callable[..., RunSpec], tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "record.json"
    write_record(path, record_of(small_run()))
    return path


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_round_trip_is_equal(small_run: Callable[..., RunSpec], tmp_path: Path) -> None:
    record = record_of(small_run("guidance=cfg", "guidance.interval=[0.1,1.5]"))
    path = tmp_path / "record.json"
    write_record(path, record)
    assert read_record(path) == record
    first = path.read_bytes()
    write_record(path, read_record(path))
    assert path.read_bytes() == first


def test_file_is_plain_json_with_format_and_protocol(written: Path) -> None:
    content = json.loads(written.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["format"] == FORMAT
    assert content["protocol"] == PROTOCOL
    assert set(content) | {"images", "converged"} == {field.name for field in dataclasses.fields(Record)}
    assert list(written.parent.iterdir()) == [written]  # no temporary file stays


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("guidance=autoguidance", "guidance.weight=1.5", "correction=erk_guid"),
        ("solver=euler", "solver.s_churn=4", "dtype=float64", "class_label=3", "guidance.interval=[0.1,2.0]"),
    ],
)
def test_spec_is_rebuilt_from_the_file(
    overrides: tuple[str, ...], small_run: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = small_run(*overrides)
    write_record(tmp_path / "record.json", record_of(spec))
    rebuilt = read_record(tmp_path / "record.json").run_spec
    assert rebuilt == spec
    assert rebuilt.digest == spec.digest
    assert rebuilt.run_id == spec.run_id


def test_other_format_is_refused(written: Path) -> None:
    change(written, lambda content: content.update(format="erk-bench record 0"))
    with pytest.raises(UserError, match=f"has format 'erk-bench record 0'; expected '{FORMAT}'"):
        read_record(written)


@pytest.mark.parametrize("text", ["[1, 2]", '"text"', "{}"])
def test_other_json_is_refused(text: str, written: Path) -> None:
    written.write_text(text)
    with pytest.raises(UserError, match=f"record.json' has format .* expected '{FORMAT}'"):
        read_record(written)


@pytest.mark.parametrize("name", ["seeds", "metrics", "environment", "created"])
def test_missing_field_is_named(name: str, written: Path) -> None:
    change(written, lambda content: content.pop(name))
    with pytest.raises(UserError, match=rf"other fields than a record: \['{name}'\]"):
        read_record(written)


def test_additional_field_is_named(written: Path) -> None:
    change(written, lambda content: content.update(note="mine"))
    with pytest.raises(UserError, match=r"other fields than a record: \['note'\]"):
        read_record(written)


def test_metric_without_its_error_is_refused(written: Path) -> None:
    change(written, lambda content: content["metrics"]["fd_digits"].pop("standard_error"))
    with pytest.raises(UserError, match="damaged metrics .*standard_error.*run the row again"):
        read_record(written)


def test_metrics_of_another_shape_are_refused(written: Path) -> None:
    change(written, lambda content: content.update(metrics=[1.0, 2.0]))
    with pytest.raises(UserError, match="damaged metrics"):
        read_record(written)


def test_broken_json_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-40])
    with pytest.raises(UserError, match="no readable record .*delete it and run the row again"):
        read_record(written)
    written.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no readable record"):
        read_record(written)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format":' * 5000 + "1" + "}" * 5000])
def test_deep_json_is_refused(text: str, written: Path) -> None:
    written.write_text(text)
    with pytest.raises(UserError, match="no readable record .*nested deeper"):
        read_record(written)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.json' is no readable record"):
        read_record(tmp_path / "none.json")


def test_damaged_spec_is_named(written: Path) -> None:
    change(written, lambda content: content["spec"]["schedule"].update(num_steps="four"))
    with pytest.raises(UserError, match=r"schedule\.num_steps is 'four'; expected int"):
        _ = read_record(written).run_spec


def test_environment_has_versions_device_and_commit() -> None:
    facts = environment(torch.device("cpu"))
    assert set(facts["packages"]) == set(PACKAGES)
    assert torch.__version__.startswith(facts["packages"]["torch"])
    assert facts["packages"]["torch-fidelity"][0].isdigit()
    assert set(facts) == {"packages", "python", "platform", "device", "cuda", "commit", "dirty"}
    assert facts["device"]
    assert facts["cuda"] is None
    commit = facts["commit"]
    assert commit is None or len(commit) == 40
    assert (facts["dirty"] is None) == (commit is None)
    json.dumps(facts)  # plain values only


def test_package_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erk_bench.runs.records.PACKAGES", ("torch", "no-such-package-of-ours"))
    packages = environment(torch.device("cpu"))["packages"]
    assert packages["no-such-package-of-ours"] == "not installed"
    assert packages["torch"] != "not installed"


def test_environment_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    facts = environment(torch.device("cpu"))
    assert (facts["commit"], facts["dirty"]) == (None, None)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({}, None),
        ({"0": 4.0}, 500.0),
        ({"0": 1.0, "3": 80.0, "7": 2.0}, 250.0),
        ({"0": 1.0, "1": 100.0, "2": 3.0, "3": 2.0}, 312.5),
    ],
)
def test_seconds_per_1000_is_the_median_block_scaled(
    seconds: dict[str, float], expected: float | None, small_run: Callable[..., RunSpec]
) -> None:
    spec = small_run()
    assert spec.block_size == 8
    assert record_of(spec, seconds).seconds_per_1000 == expected
