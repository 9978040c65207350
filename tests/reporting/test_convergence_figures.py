"""The picture of solver errors: slopes, floors, and what is drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest

from erk_bench.reporting.convergence_figures import slope
from erk_bench.reporting.table_figures import draw
from erk_bench.reporting.table_views import Floor, TableRow, TableView
from tests.reporting.test_table_views import row

CHECK = "16 and 8 steps of heun differ by so much"


def error(
    cost: int, value: float, method: str = "Heun", guidance: str = "no guidance", **other: object
) -> TableRow:
    made = row(guidance, cost, method, value, order=2, **other)
    return replace(
        made, nfe=cost, nfe_guide=0, metrics={"solver_error": ("solver error", (value, value / 90))}
    )


def power(order: float, costs: tuple[int, ...] = (7, 15, 31, 63), **other: object) -> list[TableRow]:
    return [error(cost, 3.0 * cost**-order, **other) for cost in costs]


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, 3.7])
def test_slope_of_a_power(order: float) -> None:
    assert slope(power(order)) == pytest.approx(order)
    assert slope(power(order)[::-1]) == pytest.approx(order)


def test_slope_is_that_of_the_last_three_points_that_are_clear_of_the_floors() -> None:
    rows = [error(7, 50.0), *power(2.0, (15, 31, 63))]
    assert slope(rows) == pytest.approx(2.0)
    flat = [*power(2.0, (7, 15, 31)), error(63, 1e-3)]
    assert slope(flat) < 1.9
    floors = {CHECK: Floor(4e-4, 1.2e-3), "end": Floor(1e-3, 1e-3)}
    assert slope([replace(each, floors=floors) for each in flat]) == pytest.approx(2.0)


def test_no_slope_of_fewer_than_two_points() -> None:
    assert slope([]) is None
    assert slope(power(2.0)[:1]) is None
    assert slope([error(7, 0.2), error(7, 0.1)]) is None
    assert slope([replace(each, floors={CHECK: Floor(1.0, 3.0)}) for each in power(2.0)]) is None
    assert slope([*power(2.0)[:2], error(31, 0.0)]) == pytest.approx(2.0)


def test_what_is_drawn() -> None:
    """Logarithmic axes, a line a series with slope and order, a floor in its panel; no solution itself."""
    floors = {CHECK: Floor(2e-4, 6e-4)}
    rows = [replace(each, floors=floors) for each in power(2.0)]
    rows += power(1.0, method="Euler", guidance="CFG 2")
    rows += [error(127, 0.0)]
    figure = draw(TableView("t", "c", tuple(rows)), "convergence")
    first, second = figure.axes
    assert {first.get_xscale(), first.get_yscale()} == {"log"}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "Heun: slope 2.0, –, order 2", "Euler: slope –, 1.0, order 2", CHECK,
    ]  # fmt: skip
    levels = [[line for line in axis.lines if line.get_label() == CHECK] for axis in (first, second)]
    assert [len(lines) for lines in levels] == [1, 0]
    assert list(levels[0][0].get_ydata()) == [2e-4, 2e-4]
    assert len(first.containers) == 1 and len(first.containers[0].lines[0].get_xdata()) == 4


def test_a_table_of_the_solution_alone_is_drawn() -> None:
    assert draw(TableView("t", "c", (error(15, 0.0),)), "convergence").axes
