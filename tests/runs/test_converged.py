"""The converged solution of a run: which run it is, which runs share it, which have none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from erk_bench.base.errors import UserError
from erk_bench.commands.compose import run_spec
from erk_bench.runs.checks import check_task
from erk_bench.runs.converged import check_converged, converged_of, converged_runs
from erk_bench.runs.equation import equation_of
from erk_bench.spec import RunSpec
from erk_bench.studies.score_sets import measuring

MakeSpec = Callable[..., RunSpec]
NAMES = "metrics.names=[solver_error]"

# Of rows of one table: all have the same solution.
SAME = (
    ("schedule.num_steps=4",),
    ("schedule.num_steps=7", "solver=euler", "solver.denoise_to_zero=false"),
    ("solver=deis",),
    ("solver=dpmpp", "solver.afs=true"),
    ("correction=erk_guid", "correction.w_stiff=0.5"),
    ("correction=erk_dx", "correction.w_stiff=1", "correction.w_con=0"),
    ("schedule.sigma_min=0.01",),
    ("schedule.sigmas=[80,10,1,0.1,0]",),
    ("guidance=cfg", "guidance.weight=1"),
    ("guidance=apg", "guidance.weight=1", "guidance.momentum=-0.5"),
)
# Of each the solution is another.
OTHER = (
    ("guidance=cfg", "guidance.weight=1.25"),
    ("guidance=cfg", "guidance.weight=2"),
    ("guidance=cfg", "guidance.weight=2", "guidance.interval=[0.1,2]"),
    ("guidance=apg", "guidance.weight=2", "guidance.momentum=0"),
    ("guidance=apg", "guidance.weight=2", "guidance.momentum=0", "guidance.eta=0.5"),
    ("guidance=autoguidance", "guidance.weight=2"),
    ("guidance=power_law", "guidance.weight=2"),
    ("guidance=fdg", "guidance.weight=2"),
    ("guidance=cfg_zero_star", "guidance.weight=2"),
    ("guidance=cfg_oec", "guidance.weight=2", "guidance.tau=-1"),
    ("schedule.sigma_max=40",),
    ("dtype=float64",),
    ("class_label=3",),
    ("draw_device=cuda_emulated",),
    ("network_dtype=bfloat16",),
)  # fmt: skip


def spec_of(*settings: str) -> RunSpec:
    return run_spec([NAMES, "metrics.num_groups=5", "seeds=0-39", *settings])


def test_it_is_the_run_of_heun_with_256_steps_and_no_other() -> None:
    found = converged_runs(spec_of("solver=deis", "guidance=cfg", "guidance.weight=2"))
    guided = ["guidance=cfg", "guidance.weight=2"]
    assert found.solution.run_id == run_spec(["schedule.num_steps=256", *guided]).run_id
    assert found.check.run_id == run_spec(["schedule.num_steps=128", *guided]).run_id
    assert found.solution.seeds == "0-39" and found.solution.metrics.names == ("solver_error",)


@pytest.mark.parametrize(("solver", "settings"), [
    ("unipc", ("solver.thresholding=false",)), ("deis", ("solver.mode=tab_exact",)), ("euler", ()),
])  # fmt: skip
def test_another_solver_is_taken_as_it_solves_the_equation_alone(
    solver: str, settings: tuple[str, ...]
) -> None:
    """With its published schedule, nothing bounded, and a last step to zero."""
    found = converged_runs(spec_of(f"metrics.converged.solver={solver}", "metrics.converged.num_steps=64"))
    for run, steps in zip(found, (64, 32), strict=True):
        asked = [f"solver={solver}", *settings, f"schedule.num_steps={steps}", "solver.denoise_to_zero=true"]
        assert run.run_id == run_spec(asked).run_id


def test_rows_of_an_equation_share_it() -> None:
    found = converged_of([spec_of(*settings) for settings in SAME])
    assert [run.schedule.num_steps for run in found] == [256, 128]
    others = {converged_runs(spec_of(*settings)).solution.run_id for settings in OTHER}
    assert len(others) == len(OTHER) and found[0].run_id not in others


def test_rows_without_solver_errors_need_none() -> None:
    assert converged_of([run_spec([]), run_spec(["guidance=cfg"])]) == []


def test_it_is_no_part_of_the_identity() -> None:
    plain = run_spec(["seeds=0-39"])
    errors = spec_of("metrics.converged.num_steps=32", "metrics.converged.states=float16")
    assert plain.run_id == errors.run_id == "digits-heun32-" + plain.run_id[-10:]


@pytest.mark.parametrize("settings", [*SAME, *OTHER])
def test_these_have_a_solution(settings: tuple[str, ...]) -> None:
    check_converged(spec_of(*settings), imported=True)


@pytest.mark.parametrize(("settings", "told"), [
    (("solver.s_churn=10",), "s_churn is 10"),
    (("guidance=cfgpp", "guidance.weight=0.6"), "depends on the other levels of the run"),
    (("guidance=cfgpp", "guidance.weight=1"), "depends on the other levels of the run"),
    (("guidance=fitted_cfg", "guidance.weight=2"), "depends on the other levels of the run"),
    (("guidance=cfg_zero_star", "guidance.weight=2", "guidance.zero_steps=2"), "depends on the other levels"),
    (("guidance=apg", "guidance.weight=2", "guidance.momentum=-0.5"), "depends on earlier evaluations"),
    (("guidance=cfg_oec", "guidance.weight=2"), "depends on earlier evaluations"),
    (("guidance=higs", "guidance.weight=1"), "depends on earlier evaluations"),
    (("metrics.converged.solver=heum",), "did you mean 'heun'"),
    (("metrics.converged.num_steps=3",), "must be 4 to 10000"),
    (("metrics.converged.states=bfloat16",), "Known: float32, float16"),
])  # fmt: skip
def test_these_have_none_and_are_told_before_anything_runs(settings: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        spec_of(*settings)
    assert "\n" not in str(error.value)
    if "converged" not in settings[0]:
        assert "leave solver_error out of metrics.names" in str(error.value)
        run_spec(list(settings))  # for other metrics it is as good as ever


GUIDANCE = """
def plain(x, sigma, main, guide, weight):
    return guide + weight * (main - guide)

def by_levels(x, sigma, main, guide, weight, *, levels):
    return guide + weight * len(levels) * (main - guide)

def by_start(x, sigma, main, guide, weight, *, levels):
    return guide + weight * (sigma / 80.0) * (main - guide)

kept = []
def by_memory(x, sigma, main, guide, weight):
    kept.append(main)
    return guide + weight * (main - kept[-2:][0])
"""


@pytest.mark.parametrize(("name", "has"), [
    ("plain", True), ("by_start", True), ("by_levels", False), ("by_memory", False),
])  # fmt: skip
def test_guidance_of_a_users_own_is_tried(tmp_path: Path, name: str, has: bool) -> None:
    """Once its code may be run; planning runs nobody's code."""
    (tmp_path / "my.py").write_text(GUIDANCE)
    spec = spec_of(f"guidance={tmp_path / 'my.py'}:{name}", "guidance.weight=2")
    check_task(spec)
    if has:
        check_converged(spec, imported=True)
    else:
        with pytest.raises(UserError, match="no converged solution"):
            check_converged(spec, imported=True)


def test_a_schedule_of_a_users_own_must_begin_where_the_solution_does(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(
        "def levels(num_steps, sigma_min, sigma_max, rho, dtype):\n"
        "    return [50.0 / 2**place for place in range(num_steps)]\n"
    )
    spec = spec_of(f"schedule={tmp_path / 'my.py'}:levels", "schedule.num_steps=6")
    with pytest.raises(UserError, match=r"begins at noise level 50.*set schedule.sigma_max=50"):
        check_converged(spec, imported=True)
    right = dataclasses.replace(spec, schedule=dataclasses.replace(spec.schedule, sigma_max=50.0))
    check_converged(right, imported=True)
    solution = converged_runs(right).solution
    assert equation_of(solution).levels[0] == pytest.approx(50.0, rel=1e-5)


def test_a_flow_models_own_coordinates_begin_with_pure_noise() -> None:
    """So does the solution, whatever shift its levels have; in x and sigma it is another."""
    runs = [spec_of("coordinates=native", "schedule=flow", f"schedule.shift={shift}") for shift in (1, 3)]
    found = [converged_runs(spec).solution for spec in runs]
    assert found[0] == found[1]
    assert (found[0].coordinates, found[0].schedule.name, found[0].schedule.options) == ("native", "flow", ())
    assert equation_of(found[0]).levels[0] == 1.0
    check_converged(runs[1], imported=True)
    assert converged_runs(spec_of("schedule=flow")).solution.schedule.name == "polynomial"
    given = spec_of("coordinates=native", "schedule=polynomial")
    assert converged_runs(given).solution.schedule.name == "polynomial"


def test_a_schedule_that_begins_at_a_level_of_its_own() -> None:
    spec = spec_of("schedule=ddpm", "schedule.num_steps=50")
    first = equation_of(spec).levels[0]
    assert first > 100 and converged_runs(spec).solution.schedule.sigma_max == first
    check_converged(spec, imported=True)


def test_a_set_of_images_has_none() -> None:
    with pytest.raises(UserError, match="a set of images has none"):
        measuring("digits", ["fd_digits", "solver_error@pixels"])
