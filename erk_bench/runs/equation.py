"""The equation that a run's settings mean."""

from __future__ import annotations

from typing import Any

import torch

from erk_bench.base.assets import Assets
from erk_bench.runs import plugins
from erk_bench.runs.statistics_file import model_statistics
from erk_bench.sampling.equation import (
    Equation,
    correction_part,
    guidance_part,
    schedule_part,
    solver_part,
)
from erk_bench.sampling.loop import Churn
from erk_bench.sampling.native import NativeChoices
from erk_bench.spec import RunSpec


def equation_of(spec: RunSpec, *, imported: bool = True) -> Equation:
    """The equation that a run solves.

    imported: code of a user's own that it names is imported, ready to run. Without, nobody's code is run: the
    equation knows what the text of such a file tells, and cannot be solved.
    Raises UserError for names that no table has, and for settings that do not fit together.
    """
    solver, schedule, guidance, correction = spec.solver, spec.schedule, spec.guidance, spec.correction
    options: dict[str, Any] = dict(solver.options)
    if solver.statistics is not None and imported:
        options["statistics"] = model_statistics(solver.statistics, Assets.from_environment(spec.offline))
    levels = None
    if not schedule.sigmas:
        levels = schedule_part(_choice("schedule", schedule, imported), dict(schedule.options), schedule.name)
        if schedule.path is not None and not imported:
            levels = None  # any others serve to check the rest
    return Equation(
        solver=solver_part(_choice("solver", solver, imported), options, solver.name),
        denoise_to_zero=solver.denoise_to_zero,
        afs=solver.afs,
        schedule=levels,
        num_steps=schedule.num_steps,
        sigma_min=schedule.sigma_min,
        sigma_max=schedule.sigma_max,
        rho=schedule.rho,
        levels_given=schedule.sigmas or None,
        guidance=guidance_part(_choice("guidance", guidance, imported), guidance.all_options, guidance.name),
        weight=guidance.weight,
        interval=guidance.interval,
        coordinates=spec.coordinates,
        native=NativeChoices(
            spec.native.interval_ends, spec.native.decides, spec.native.last_step, spec.native.sde
        ),
        correction=correction_part(
            _choice("correction", correction, imported), dict(correction.options), correction.name
        ),
        w_stiff=correction.w_stiff,
        w_con=correction.w_con,
        churn=Churn(solver.s_churn, solver.s_min, solver.s_max, solver.s_noise),
        dtype=getattr(torch, spec.dtype),
    )


def _choice(kind: str, part: plugins.FromOutside, imported: bool) -> Any:
    """The row of a user's own, or the name of one of ours."""
    if part.path is None:
        return part.name
    return plugins.row_of(kind, part.path, part.sha256) if imported else plugins.facts_of(kind, part.path)
