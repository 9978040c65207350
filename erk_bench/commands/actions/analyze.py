"""`erk-bench analyze`: how stiff a checkpoint's trajectories are, and whether the solver sees it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as RichTable

from erk_bench.base.console import wide_console
from erk_bench.base.errors import UserError
from erk_bench.base.files import write_atomic
from erk_bench.commands.analyze import AnalyzeOptions
from erk_bench.commands.compose import run_spec
from erk_bench.commands.tracking import refuse_tracker
from erk_bench.reporting.table_figures import to_bytes
from erk_bench.runs import launch
from erk_bench.runs.alone import alone
from erk_bench.runs.device import Place, check_draws, memory_guard
from erk_bench.runs.equation import equation_of
from erk_bench.runs.sample_block import draw_block
from erk_bench.sampling.equation import correction_part
from erk_bench.spec import RunSpec
from erk_bench.studies.analysis.figures import to_csv
from erk_bench.studies.analysis.trajectories import ObservedSteps, observe
from erk_bench.studies.analysis.trajectory_figures import by_step, correlation, quantile, trajectory_figure


def analyze(options: AnalyzeOptions, settings: list[str]) -> int:
    """Measure, write picture and CSV, print a row for each step."""
    refuse_tracker(settings, "analyze does")
    spec = run_spec(settings)
    images, iterations = options.images, options.iterations
    _check(spec, images)
    place = alone(spec)
    found, dimensions = _observed(spec, place, images, iterations)
    to = Path(options.to or Path(spec.out) / "analyses").expanduser() / f"analyze-{spec.slug}"
    w_con = spec.correction.w_con if spec.correction.w_stiff else None
    title = f"{spec.slug}: {images} trajectories, {dimensions:,} dimensions"
    for form in ("svg", "png"):
        figure = trajectory_figure(title, found, dimensions, w_con)
        write_atomic(to.with_name(f"{to.name}.{form}"), to_bytes(figure, form))
        plt.close(figure)
    columns = {item.name: getattr(found, item.name) for item in dataclasses.fields(found)}
    write_atomic(to.with_name(f"{to.name}.csv"), to_csv(columns).encode())
    _show(found)
    print(f"figure and CSV: {to}.*")
    return 0


def _check(spec: RunSpec, images: int) -> None:
    """Refuse what cannot be analyzed before anything is fetched."""
    if launch.world_size() > 1:
        raise UserError(
            f"analyze works in one process, and WORLD_SIZE is {launch.world_size()}; start it without "
            "torchrun"
        )
    limit = min(len(spec.seed_range), spec.block_size)
    if images > limit:
        raise UserError(
            f"images is {images}; it must be 1 to {limit}, the fewer of seeds={spec.seeds} and "
            f"block_size={spec.block_size}"
        )
    equation = equation_of(spec)
    equation.check_corrected(correction_part("erk_guid"))
    for name, value in (("solver.s_churn", spec.solver.s_churn), ("native.sde", spec.native.sde)):
        if value:
            raise UserError(f"analyze needs deterministic steps, and {name} is {value:g}; set it to 0")
    if equation.keeps_state:
        raise UserError(
            f"guidance '{equation.guidance.name}' remembers earlier evaluations, and such a drift has no "
            f"Jacobian; set guidance.{equation.guidance.row.forgetting}"
        )
    check_draws(spec)


def _observed(spec: RunSpec, place: Place, images: int, iterations: int) -> tuple[ObservedSteps, int]:
    # Compiled networks have no forward-mode derivative, and TF32 would hide small errors.
    plain = dataclasses.replace(spec, compile=False, numerics="strict")
    with memory_guard(spec):
        drawn = draw_block(plain, list(spec.seed_range)[:images], place)
        equation = equation_of(plain)
        problem = equation.problem(drawn.net, drawn.guide)
        noise = drawn.noise.to(getattr(torch, spec.dtype))
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(f"{images} trajectories", total=len(problem.run.steps()))
            found = observe(
                problem, noise, drawn.condition, equation.correct(), iterations, lambda: bar.advance(task)
            )
    return found, noise[0].numel()


def _show(found: ObservedSteps) -> None:
    table = RichTable(title="medians over samples, at the start of each step")
    for name in ("sigma", "|lambda|", "found", "R", "R / |lambda|", "|J dx| / |dx|", "|cos| dx", "|cos| df"):
        table.add_column(name, justify="right")
    ratio = found.estimate / found.size
    columns = (found.size, None, found.estimate, ratio, found.along_dx, found.cos_dx, found.cos_df)
    shares = by_step(found, found.converged.double(), torch.mean)
    medians = [None if each is None else by_step(found, each, quantile(0.5)) for each in columns]
    for number, sigma in enumerate(by_step(found, found.sigma, quantile(0.5))):
        cells = [f"{shares[number]:.0%}" if each is None else f"{each[number]:.3g}" for each in medians]
        table.add_row(f"{sigma:.3g}", *cells)
    wide_console().print(table)
    print(
        f"correlation of log R and log |lambda|: {correlation(found):.3f}; with both multiplied by sigma: "
        f"{correlation(found, scaled=True):.3f}"
    )
    print(
        f"found: an eigenpair by power iteration ({found.converged.double().mean():.0%} of all); elsewhere "
        "others are nearly as large, |lambda| is an estimate and its vector one of several"
    )
