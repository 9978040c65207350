"""The dashboard: its panels name what the tracker logs; printing it needs no network."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from erk_bench.evaluation.metrics import METRICS
from erk_bench.reporting.trackers import values as tracked
from erk_bench.reporting.trackers.tracker import (
    FRACTION,
    IMAGES,
    IMAGES_PER_S,
    SAMPLES,
    SECONDS,
    SECONDS_PER_1000,
    figure_key,
    table_key,
)
from erk_bench.spec import RunSpec
from tests.runs.test_records import record_of

pytest.importorskip("wandb_workspaces")

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_dashboard.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dashboard", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def panels_of(content: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The panels by the name of their section."""
    return {section["name"]: section["panels"] for section in content["sections"]}


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def dry_run(script: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert script.main(["--dry-run", *arguments]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def test_panels_name_what_is_logged(
    script: ModuleType, capsys: pytest.CaptureFixture[str], small_run: Any
) -> None:
    panels = panels_of(dry_run(script, capsys, "--metrics", "fd_digits,kid_digits"))
    shown = {name: set(texts(several)) for name, several in panels.items()}
    assert {IMAGES_PER_S, FRACTION, IMAGES, SECONDS} <= shown["Throughput"]
    assert any(SECONDS_PER_1000 in text for text in shown["Throughput"])
    assert {SAMPLES} <= shown["Samples"]
    assert {table_key("table2"), table_key("table3")} <= shown["Tables"]
    assert figure_key("table2-steps") in shown["Figures"]
    assert {"w_con", "fd_digits", "fd_digits_se", "kid_digits", "kid_digits_se"} <= shown["Figure 4: curves"]
    # Results are drawn from the names that a record gets in the tracker.
    spec: RunSpec = small_run()
    logged = tracked.result_values(record_of(spec))
    results = " ".join(shown["Results"])
    assert {"fd_digits", "kid_digits", "nfe"} <= logged.keys()
    assert all(name in results for name in ("fd_digits", "kid_digits", "nfe"))


def test_default_metrics_and_tables_exist(script: ModuleType) -> None:
    assert set(script.METRICS) <= set(METRICS)
    configs = SCRIPT.parents[1] / "configs" / "table"
    assert all((configs / f"{table}.yaml").is_file() for table in script.TABLES)


def test_settings_are_in_the_workspace(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    content = dry_run(script, capsys, "--entity", "team", "--project", "mine", "--name", "Mine")
    assert (content["entity"], content["project"], content["name"]) == ("team", "mine", "Mine")


def test_entity_is_needed_to_save(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main([])
    assert "--entity is missing" in capsys.readouterr().err
