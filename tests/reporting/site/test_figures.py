"""Figures of a site as values: what is drawn where, and what each point leads to."""

from __future__ import annotations

from typing import Any

import pytest

from erk_bench.reporting.site.content import SiteTable
from erk_bench.reporting.site.figures import table_figures
from erk_bench.reporting.table_views import Floor, TableRow, TableView


def row(
    method: str, steps: int | None, value: float, guidance: str = "no guidance", **changes: Any
) -> TableRow:
    return TableRow(
        steps=steps, guidance=guidance, method=method, nfe=2 * (steps or 0), nfe_guide=0,
        metrics={"fd_digits": ("FD-digits", (value, 0.1 * value))}, difference=None, verdict="",
        seconds_per_1000=None, overhead=None, reproduction="", off=False, solver=method, **changes,
    )  # fmt: skip


def table(*rows: TableRow, figure: str) -> SiteTable:
    ids = tuple(f"page{number}" for number in range(len(rows)))
    return SiteTable("t", TableView("title", "caption", rows), ids, "folder", "erk-bench table", figure)


ROWS = (
    row("Heun", 8, 1.0),
    row("Heun", 4, 3.0),
    row("Euler", 4, 2.0),
    row("mine", None, 9.0, "given images"),
    row("Heun", 4, 5.0, "CFG 2"),
)


@pytest.mark.parametrize(("figure", "costs"), [("steps", [4, 8]), ("nfe", [8, 16])])
def test_a_figure_for_each_guidance_with_points_in_order(figure: str, costs: list[float]) -> None:
    first, second = table_figures(table(*ROWS, figure=figure))
    assert (first["title"], second["title"]) == ("no guidance", "CFG 2")
    heun, euler = first["series"]
    assert (heun["x"], heun["y"], heun["e"]) == (costs, [3.0, 1.0], pytest.approx([0.3, 0.1]))
    assert heun["href"] == ["../records/page1.html", "../records/page0.html"]
    assert heun["text"] == ["3.00 ± 0.30", "1.00 ± 0.10"] and euler["name"] == "Euler"
    assert second["series"][0]["color"] == heun["color"] != euler["color"]
    assert not first["logx"] and not first["logy"]


def test_values_over_decades_get_a_logarithmic_axis() -> None:
    (figure,) = table_figures(table(row("Heun", 4, 100.0), row("Heun", 8, 1.0), figure="nfe"))
    assert figure["logy"] and not figure["logx"]


def test_solver_errors_are_drawn_with_orders_and_floors() -> None:
    floors = {"half as many steps": Floor(0.01, 0.03)}
    rows = [row("Heun", steps, 1.0 / steps**2, order=2, floors=floors) for steps in (4, 8)]
    (figure,) = table_figures(table(*rows, figure="convergence"))
    assert figure["logx"] and figure["logy"]
    heun, floor = figure["series"]
    assert heun["name"] == "Heun (order 2)" and floor["name"] == "half as many steps"
    assert (floor["x"], floor["y"]) == ([8, 16], [0.01, 0.01])


def test_tables_without_a_figure_or_runs_have_none() -> None:
    assert table_figures(table(*ROWS, figure="none")) == []
    assert table_figures(table(row("mine", None, 9.0, "given images"), figure="nfe")) == []
