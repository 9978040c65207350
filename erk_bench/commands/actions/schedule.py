"""`erk-bench schedule`: noise levels made for a model and its guidance, from a few hundred trajectories."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import Progress

from erk_bench.base.errors import UserError
from erk_bench.base.files import write_atomic
from erk_bench.commands.compose import run_spec
from erk_bench.commands.schedule import ScheduleOptions
from erk_bench.commands.tracking import refuse_tracker
from erk_bench.runs import launch
from erk_bench.runs.alone import alone
from erk_bench.runs.device import check_draws
from erk_bench.runs.equation import equation_of
from erk_bench.sampling.gits import check_gits
from erk_bench.sampling.sdm_levels import Tolerance
from erk_bench.spec import RunSpec
from erk_bench.studies.level_search import Gits, Sdm, found_levels


def schedule(options: ScheduleOptions, settings: list[str]) -> int:
    """Choose levels, write them, and say how to use them."""
    refuse_tracker(settings, "schedule does")
    spec = run_spec(settings)
    _check(spec, options)
    place = alone(spec)
    method: Gits | Sdm = Gits(options.metric, options.coeff)
    if options.method == "sdm":
        method = Sdm(Tolerance(options.eta_min, options.eta_max, options.eta_power), options.q, options.snap)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"{options.images} trajectories", total=None)
        levels = found_levels(
            spec, place, options.images, options.teacher, method,
            lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    name = f"{options.method}-{spec.slug}"
    to = Path(options.to or Path(spec.out) / "schedules" / f"{name}.yaml").expanduser()
    write_atomic(to, _file(spec, options, levels).encode())
    print(", ".join(f"{level:.5g}" for level in levels))
    print(f"{len(levels)} noise levels: {to}")
    print(f"use them: erk-bench run schedule={to} solver=...")
    return 0


def _check(spec: RunSpec, options: ScheduleOptions) -> None:
    """Refuse what cannot be before anything is fetched."""
    check_trajectories(spec, options.images, "schedule")
    if spec.schedule.sigmas:
        raise UserError("schedule chooses noise levels itself; leave out schedule.sigmas")
    if options.method == "sdm" and spec.solver.name not in ("euler", "heun"):
        raise UserError(
            f"method=sdm moves by solver=euler or heun, and the solver is '{spec.solver.name}'; choose one "
            "of the two here, and any solver for the levels"
        )
    check_gits(spec.schedule.num_steps, options.teacher)


def check_trajectories(spec: RunSpec, images: int, command: str) -> None:
    """Refuse what no command can measure on `images` trajectories of a run in this one process."""
    if launch.world_size() > 1:
        raise UserError(
            f"{command} works in one process, and WORLD_SIZE is {launch.world_size()}; start it without "
            "torchrun"
        )
    if images > len(spec.seed_range):
        raise UserError(
            f"images is {images}, and seeds={spec.seeds} are {len(spec.seed_range)}; give more seeds"
        )
    equation_of(spec, imported=False).refuse_native(f"what 'erk-bench {command}' measures")
    check_draws(spec)


def _file(spec: RunSpec, options: ScheduleOptions, levels: list[float]) -> str:
    """The file of levels, as `schedule=FILE` takes it, and how it was made."""
    mine = {"gits": ("metric", "coeff"), "sdm": ("eta_min", "eta_max", "eta_power", "q", "snap")}
    given = dataclasses.asdict(options)
    how = ", ".join(f"{key} {given[key]}" for key in ("teacher", *mine[options.method]))
    first, last = spec.seed_range[0], spec.seed_range[options.images - 1]
    guided = f", {spec.guidance.name} {spec.guidance.weight:g}" if spec.guidance.active else ""
    lines = (
        f"# {len(levels)} noise levels by {options.method}: {how}",
        f"# model {spec.model.name}{guided}, seeds {first}-{last}",
        yaml.safe_dump({"sigmas": levels}, default_flow_style=None, width=110),
    )
    return "\n".join(lines)
