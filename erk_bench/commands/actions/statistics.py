"""`erk-bench statistics`: a model's statistics for DPM-Solver-v3, from a few hundred trajectories."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from erk_bench.base.errors import UserError
from erk_bench.commands.actions.schedule import check_trajectories
from erk_bench.commands.compose import run_spec
from erk_bench.commands.statistics import StatisticsOptions
from erk_bench.commands.tracking import refuse_tracker
from erk_bench.runs.alone import alone
from erk_bench.runs.equation import equation_of
from erk_bench.runs.statistics_file import write_statistics
from erk_bench.spec import RunSpec
from erk_bench.studies.model_statistics import measured_statistics


def statistics(options: StatisticsOptions, settings: list[str]) -> int:
    """Measure, write, and say how to use it."""
    refuse_tracker(settings, "statistics does")
    spec = run_spec(settings)
    _check(spec, options)
    place = alone(spec)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"{options.images} trajectories", total=None)
        found = measured_statistics(
            spec, place, options.images, options.levels,
            lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    guided = spec.guidance.active
    name = f"{spec.model.name}-{spec.guidance.name}{spec.guidance.weight:g}" if guided else spec.model.name
    to = Path(options.to or Path(spec.out) / "statistics" / f"{name}.safetensors").expanduser()
    how = {
        "model": spec.model.name, "sha256": spec.model.weights.sha256, "guidance": spec.guidance.name,
        "weight": spec.guidance.weight, "images": options.images, "first_seed": spec.seed_range[0],
    }  # fmt: skip
    write_statistics(to, found, how)
    print(f"statistics at {options.levels} noise levels, {options.images} images: {to}")
    print(f"use them: erk-bench run solver=dpm_solver_v3 solver.statistics={to}")
    return 0


def _check(spec: RunSpec, options: StatisticsOptions) -> None:
    """Refuse what cannot be before anything is fetched."""
    check_trajectories(spec, options.images, "statistics")
    equation = equation_of(spec, imported=False)
    if equation.keeps_state:
        raise UserError(
            f"guidance '{spec.guidance.name}' depends on earlier evaluations and has no Jacobian; "
            f"set guidance.{equation.guidance.row.forgetting}"
        )
