"""Rows that differ in a setting have names that differ."""

from __future__ import annotations

from erk_bench.commands.compose import run_spec
from erk_bench.reporting.row_names import guidance_name, row_names
from tests.studies.test_table import corrected, plain_spec


def test_names_have_what_tells_rows_apart() -> None:
    specs = [plain_spec(), plain_spec("schedule.rho=5"), plain_spec("schedule.num_steps=16")]
    assert [name.method for name in row_names(specs)] == ["Heun, rho 7.0", "Heun, rho 5.0", "Heun, rho 7.0"]
    assert [name.method for name in row_names(specs[::2])] == ["Heun", "Heun"]  # the steps have a column
    guided = [plain_spec("guidance=cfg"), plain_spec("guidance=cfg", "guidance.interval=[0.2,2]")]
    assert [name.method for name in row_names(guided)] == ["Heun", "Heun"]  # the guidance has a column
    assert [guidance_name(spec) for spec in guided] == ["CFG 1.25", "CFG 1.25 in (0.2, 2]"]


def test_a_corrected_row_names_its_solver_then() -> None:
    other = plain_spec("solver.denoise_to_zero=false")
    names = row_names([corrected(plain_spec()), corrected(other)])
    assert names[1].method == "ERK-Guid on Heun, denoise_to_zero false (0.5, 0.25)"
    assert names[0].method == "ERK-Guid on Heun, denoise_to_zero default (0.5, 0.25)"
    assert [name.solver for name in row_names([other])] == ["Heun"]


def test_a_schedule_is_told_by_its_name() -> None:
    """Its exponent, which follows from it, is left out, and so is the schedule that the solver comes with."""
    specs = [plain_spec("solver=deis"), plain_spec("solver=deis", "schedule=angle")]
    assert [name.method for name in row_names(specs)] == ["DEIS", "DEIS, schedule angle"]
    other = [*specs, plain_spec("solver=deis", "schedule=angle", "schedule.rho=1.5")]
    assert row_names(other)[2].method == "DEIS, schedule angle, rho 1.5"


def test_rows_of_several_models_name_theirs() -> None:
    specs = [plain_spec(), plain_spec("model=digits-seed11", "schedule.num_steps=16")]
    assert [name.method for name in row_names(specs)] == ["Heun, digits", "Heun, digits-seed11"]
    assert row_names([corrected(spec) for spec in specs])[1] == (
        "ERK-Guid on Heun, digits-seed11 (0.5, 0.25)",
        "Heun, digits-seed11",
    )


def test_an_interval_in_a_models_own_time_says_so() -> None:
    spec = run_spec(
        ["model=sit-xl-2", "coordinates=native", "guidance.interval=[0,0.7]", "schedule.num_steps=8"],
        fetch=False,
    )
    assert guidance_name(spec) == "CFG 1.5 for t from 0 to 0.7"
