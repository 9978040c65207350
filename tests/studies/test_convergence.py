"""What tables and comparisons say of solver errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from erk_bench.base.errors import UserError
from erk_bench.commands.compose import run_spec
from erk_bench.runs.records import Record
from erk_bench.spec import RunSpec
from erk_bench.studies.compare import compare
from erk_bench.studies.comparison_names import NamedRecord
from erk_bench.studies.convergence import floors, of_solution, order_of
from erk_bench.studies.table import build_view
from erk_bench.studies.table_file import RowSpec, TableFile
from erk_bench.studies.verdicts import check_comparable
from tests.studies.test_table import metric, record_of

TABLE = TableFile(
    "made", "A made table", "Made here.", (), "solver_error", (RowSpec(()),), figure="convergence"
)


def made(spec: RunSpec, value: float, num_steps: int = 16) -> Record:
    check = {"run_id": "half", "num_steps": num_steps // 2, "solver_error": 0.01}
    facts = {"run_id": f"heun{num_steps}", "solver": "heun", "num_steps": num_steps, "check": check}
    record = record_of(spec, metrics={"solver_error": metric(value)})
    return dataclasses.replace(record, converged=facts, reference={})


def spec_of(*settings: str) -> RunSpec:
    return run_spec(["metrics.names=[solver_error]", "seeds=0-399", *settings])


HEUN, DEIS = made(spec_of(), 0.5), made(spec_of("solver=deis"), 0.25)


def test_a_table_says_what_errors_are_distances_to() -> None:
    view = build_view(TABLE, [RowSpec(()), RowSpec(())], [[HEUN], [DEIS]], {})
    wanted = "solver errors are distances to the solution by heun, 16 steps (heun16); 8 steps are 0.01 away"
    assert f"{wanted} from it" in view.notes
    assert [row.order for row in view.rows] == [2, 2]
    check = "16 and 8 steps of heun differ by so much"
    end = "noise level 0.002, where runs without a last step end"
    found = [{name: tuple(floor) for name, floor in row.floors.items()} for row in view.rows]
    assert found == [{check: (0.01, 0.03)}, {check: (0.01, 0.03), end: (0.002, 0.002)}]


def test_of_other_metrics_nothing_is_said() -> None:
    assert floors(record_of(spec_of()), "fd_digits") == {}
    assert of_solution([HEUN], "fd_digits") == []


def test_order() -> None:
    assert [order_of(spec_of(f"solver={name}")) for name in ("euler", "heun", "deis", "ipndm_v")] == [
        1,
        2,
        2,
        1,
    ]


def test_order_of_a_users_own_solver_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text("def step(slope, x, sigma, sigma_next, history):\n    return None\n")
    assert order_of(spec_of(f"solver={tmp_path / 'my.py'}:step")) is None


def test_distances_to_different_solutions_are_not_compared() -> None:
    other = made(spec_of("solver=deis"), 0.25, 32)
    with pytest.raises(UserError, match="converged solution heun, 32 steps, .* heun, 16 steps"):
        check_comparable("solver_error", [HEUN, other])
    entries = [NamedRecord(record, Path(f"{record.run_id}.json"), "") for record in (HEUN, other)]
    with pytest.raises(
        UserError, match="the converged solution is heun, 32 steps of the first, heun, 16 steps"
    ):
        compare(entries)
    view = compare([entries[0], NamedRecord(DEIS, Path("d.json"), "")])
    assert [(row.metric, row.pairing, row.verdict) for row in view.rows] == [
        ("solver_error", "paired", "better")
    ]
