"""The converged solution of a run: another run of the same equation, to which solver errors are distances.

It has the same model, guidance, seeds and arithmetic, many steps, no correction and no churn. Runs that solve
the same equation share it, and a run of half as many steps tells how converged it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.evaluation.metrics import solver_errors
from erk_bench.runs.equation import equation_of
from erk_bench.sampling.equation import Equation
from erk_bench.sampling.guided import begin_step
from erk_bench.sampling.schedules import SCHEDULES
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.spec import CorrectionSpec, GuidanceSpec, MetricsSpec, RunSpec, ScheduleSpec, SolverSpec, Spec

SIGMA_MIN = 0.002  # before the last step, to zero
START = 1e-3  # relative difference of first noise levels that is rounding


class ConvergedRuns(NamedTuple):
    """The converged solution, and the run of half as many steps that checks it."""

    solution: RunSpec
    check: RunSpec


def converged_runs(spec: RunSpec) -> ConvergedRuns:
    """Those of a run whose metrics ask for them, from where it begins.

    Levels are the solver's published ones; in a flow model's own coordinates, uniform in its time.
    """
    asked = spec.metrics.converged
    row = SOLVERS[asked.solver]
    name, rho, sigma_max = row.schedule, row.rho, spec.schedule.sigma_max
    own = SCHEDULES.get(spec.schedule.name)
    if own is not None and own.own_ends:
        sigma_max = equation_of(spec, imported=False).levels[0]
    if equation_of(spec, imported=False).in_flow:  # it begins with pure noise, as the run does
        name, rho = "flow", SCHEDULES["flow"].rho

    def run(num_steps: int) -> RunSpec:
        return dataclasses.replace(
            spec,
            solver=SolverSpec(
                name=asked.solver, options=tuple(sorted(row.plain.items())), denoise_to_zero=True
            ),
            schedule=ScheduleSpec(
                name=name, num_steps=num_steps, sigma_min=SIGMA_MIN, sigma_max=sigma_max, rho=rho
            ),
            guidance=spec.guidance if spec.guidance.active else GuidanceSpec(name="none"),
            correction=CorrectionSpec(name="none"),
            metrics=dataclasses.replace(spec.metrics, names=tuple(solver_errors(spec.metrics.names))),
            samples="none" if spec.samples == "none" else "blocks",
        )

    return ConvergedRuns(run(asked.num_steps), run(asked.num_steps // 2))


def converged_of(specs: Sequence[Spec]) -> list[RunSpec]:
    """Every run that the solver errors of these need, each once: solutions, then their checks."""
    wanting = [spec for spec in specs if isinstance(spec, RunSpec) and solver_errors(spec.metrics.names)]
    found = [converged_runs(spec) for spec in wanting]
    return list(dict.fromkeys([each.solution for each in found] + [each.check for each in found]))


def check_no_set(metrics: MetricsSpec) -> None:
    """Refuse solver errors of a set of images that something else made."""
    for name in solver_errors(metrics.names):
        raise UserError(
            f"metric '{name}' is the distance to the converged solution of each image's own seed, and a set "
            "of images has none; choose other metrics, or sample with 'erk-bench run'"
        )


def check_converged(spec: RunSpec, *, imported: bool = False) -> None:
    """Refuse solver errors of a run whose equation has no converged solution.

    imported: code of a user's own may be run; without, what it does is not looked at.
    """
    names = solver_errors(spec.metrics.names)
    if not names:
        return
    if spec.metrics.converged.solver not in SOLVERS:
        raise unknown_name("metrics.converged.solver", spec.metrics.converged.solver, SOLVERS)
    leave = f"leave {', '.join(names)} out of metrics.names"
    for name, value in (("solver.s_churn", spec.solver.s_churn), ("native.sde", spec.native.sde)):
        if value:
            raise UserError(
                f"{name} is {value:g}, and metric '{names[0]}' is the distance to the solution of the "
                f"equation without noise; set {name}=0, or {leave}"
            )
    run, solution = (equation_of(each, imported=imported) for each in (spec, converged_runs(spec).solution))
    if (imported or spec.schedule.path is None) and not math.isclose(
        run.levels[0], solution.levels[0], rel_tol=START
    ):
        raise UserError(
            f"the run begins at noise level {run.levels[0]:g}, its converged solution at schedule.sigma_max, "
            f"{solution.levels[0]:g}; set schedule.sigma_max={run.levels[0]:g}, or {leave}"
        )
    tried = spec.guidance.active and (imported or spec.guidance.path is None)
    if tried and not _same_denoiser(run, solution):
        why = "earlier evaluations" if run.keeps_state else "the other levels of the run"
        raise UserError(
            f"guidance '{spec.guidance.name}' has no converged solution: what it does at a noise level "
            f"depends on {why}, so metric '{names[0]}' has nothing to compare with; choose another guidance "
            f"or other options of it, or {leave}"
        )


def _same_denoiser(run: Equation, other: Equation) -> bool:
    """Whether guidance makes the same function of state and noise level in both runs, in any order.

    Tried on networks that are made up: no list of guidances has to say so.
    """
    if run.keeps_state:
        return False
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=random, dtype=run.dtype)

    def main(x: Tensor, sigma: float | Tensor, condition: Tensor | None) -> Tensor:
        return 0.5 * x

    def guide(x: Tensor, sigma: float | Tensor, condition: Tensor | None) -> Tensor:
        return 0.4 * x.tanh()

    def values(equation: Equation, levels: Sequence[float]) -> dict[float, Tensor]:
        row = equation.guidance.row
        denoiser = row.make(
            main, guide, equation.weight, equation.interval, equation.levels, **equation.guidance.options
        )
        found = {}
        for sigma in levels:
            begin_step(denoiser, sum(level > sigma for level in equation.levels))
            found[sigma] = denoiser(x * sigma, sigma, None)
        return found

    levels = [equation.levels[place] for equation in (run, other) for place in (0, 1, -2, -1)]
    with torch.inference_mode():
        mine, theirs = values(run, levels), values(other, levels[::-1])
    return all(torch.equal(mine[sigma], theirs[sigma]) for sigma in levels)
