"""`erk-bench schedule`: a file of levels that runs and rows of tables take; what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.commands.compose_studies import table_file, table_runs
from erk_bench.runs.equation import equation_of

SEEDS = "seeds=1000000-1000009"
SMALL = ["teacher=8", "schedule.num_steps=5", SEEDS, "workers=1"]


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (["metric=l2", "coeff=1"], []),
        (["method=sdm", "eta_max=0.05"], ["solver=euler"]),
        ([], ["guidance=cfg", "guidance.weight=1.5", "block_size=3"]),
        (["method=sdm", "eta_min=50", "eta_max=50"], ["guidance=cfg", "guidance.weight=1.5", "block_size=3"]),
        (["method=sdm", "eta_min=50", "eta_max=50"], ["guidance=cfg", "model.unconditional=same"]),
    ],
)
def test_levels_for_any_run(
    words: list[str], more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "levels.yaml"
    given = [*words, "images=4", f"to={file}", *SMALL, *more]
    assert main(["schedule", *given]) == 0
    assert f"5 noise levels: {file}" in capsys.readouterr().out
    assert "seeds 1000000-1000003" in file.read_text()
    levels = yaml.safe_load(file.read_text())["sigmas"]
    assert len(levels) == 5 and levels[0] == pytest.approx(80, rel=1e-6)
    spec = run_spec(["solver=ipndm", f"schedule={file}"])
    assert equation_of(spec).levels == tuple(levels) and spec.schedule.num_steps == 5
    assert run_spec(["solver=ipndm", f"schedule.sigmas={file}"]).digest == spec.digest


def test_blocks_do_not_matter(tmp_path: Path) -> None:
    found = []
    for size in (3, 5):
        file = tmp_path / f"{size}.yaml"
        assert main(["schedule", "images=5", *SMALL, f"block_size={size}", f"to={file}"]) == 0
        found.append(yaml.safe_load(file.read_text()))
    assert found[0] == found[1]


def test_a_tables_row_names_levels(tmp_path: Path) -> None:
    """In a file beside the table, by schedule= or schedule.sigmas=, or one by one."""
    (tmp_path / "levels.yaml").write_text("sigmas: [80, 10, 1, 0.1]\n")
    rows = ["schedule=levels.yaml", "schedule.sigmas=levels.yaml", "'schedule.sigmas=[80,10,1,0.1]'"]
    lines = "\n".join(f"  - [solver=ipndm, {row}, solver.max_order={k}]" for k, row in enumerate(rows, 2))
    table = tmp_path / "mine.yaml"
    table.write_text(
        f"name: mine\ntitle: mine\ncaption: mine\nbase: []\nheadline: fd_digits\nrows:\n{lines}\n"
    )
    specs = table_runs(table_file(str(table)), [])[1]
    assert {equation_of(spec).levels for spec in specs} == {(80.0, 10.0, 1.0, 0.1)} and len(specs) == 3


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["images=11", SEEDS], "images is 11, and seeds=1000000-1000009 are 10; give more seeds"),
        (["images=4", "schedule.sigmas=[80,1]"], "leave out schedule.sigmas"),
        (["images=4", "method=sdm", "solver=deis"], "method=sdm moves by solver=euler or heun"),
        (["images=4", "schedule.num_steps=9", "teacher=8"], "9 noise levels cannot be picked"),
        (["images=4", "method=git"], "did you mean 'gits'"),
        (
            ["images=4", "coordinates=native"],
            "what 'erk-bench schedule' measures holds in x and sigma; leave",
        ),
    ],
)
def test_refusals(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schedule", *words]) == 2
    assert named in capsys.readouterr().err
