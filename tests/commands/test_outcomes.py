"""What commands tell a tracker of their outcome: winners, differences and verdicts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from erk_bench.commands.actions.grid import winners
from erk_bench.commands.actions.table import outcome
from erk_bench.reporting.grid_views import GridView
from erk_bench.studies.grid import build_grid_view
from tests.reporting.test_table_views import make_view
from tests.studies.test_grid import made_records, spread
from tests.test_grid_command import make_small


def test_outcome_of_a_table() -> None:
    view = make_view()
    found = outcome(view)
    best = min(view.rows, key=lambda row: row.metrics["fd_digits"][1][0])
    assert best.method in str(found["winner"])
    assert (found["winner/fd_digits"], found["winner/fd_digits_se"]) == best.metrics["fd_digits"][1]
    compared = [row for row in view.rows if row.difference is not None]
    for row in compared:
        name = f"{row.guidance}, {row.steps} steps, {row.method}"
        assert (found[f"difference/{name}"], found[f"difference_se/{name}"]) == row.difference
        assert found[f"verdict/{name}"] == row.verdict
    assert sum(name.startswith("verdict/") for name in found) == len(compared) < len(view.rows)
    highest = outcome(dataclasses.replace(view, lower=False))["winner/fd_digits"]
    assert highest == max(row.metrics["fd_digits"][1][0] for row in view.rows)


def small_view(folder: Path, values: list[float]) -> GridView:
    grid, cells = make_small(folder).cells()
    records = made_records(cells, values, 7.0)
    records[cells[1].spec.run_id] = spread(records[cells[1].spec.run_id], 1.0)
    return build_grid_view(grid, cells, records)


def test_winner_of_a_grid(tmp_path: Path) -> None:
    assert winners(small_view(tmp_path, [5.0, 3.0, 4.0, 6.0])) == {
        "winner 4 steps": "w_stiff 0.5, w_con 0.5",
        "winner 4 steps/w_stiff": "0.5", "winner 4 steps/w_con": "0.5",
        "winner 4 steps/fd_digits": 3.0, "winner 4 steps/fd_digits_se": 0.5,
        "winner 4 steps/recall_digits": 0.5, "winner 4 steps/recall_digits_se": 0.5,
        "winner 4 steps/difference": -4.0, "winner 4 steps/difference_se": 0.5,
        "winner 4 steps/verdict": "better",
    }  # fmt: skip
