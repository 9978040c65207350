"""`erk-bench plan`: what a run, table or grid would take; the manifest of a sweep."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as RichTable

from erk_bench.base.console import wide_console
from erk_bench.base.errors import UserError
from erk_bench.commands.actions.plan_parts import Operations, Rates, show_memory, show_parts
from erk_bench.commands.actions.table import shifted
from erk_bench.commands.command import given
from erk_bench.commands.compose import run_spec
from erk_bench.commands.compose_studies import grid_cells, grid_file, table_file, table_runs
from erk_bench.commands.config_dir import anywhere
from erk_bench.commands.plan import PlanOptions
from erk_bench.reporting.table_views import DASH
from erk_bench.runs import cost as planning
from erk_bench.runs import launch
from erk_bench.runs.blocks import blocks_of
from erk_bench.runs.converged import converged_of
from erk_bench.runs.device import assets_of
from erk_bench.runs.generate import unfinished
from erk_bench.runs.needs import addresses_of
from erk_bench.runs.numerics import NUMERICS
from erk_bench.spec import RunSpec
from erk_bench.studies import manifest as manifests
from erk_bench.studies import simulate as simulating
from erk_bench.studies.grid_file import trees

MOST_WORKERS = 100_000  # that a simulation takes


def plan(options: PlanOptions, overrides: list[str]) -> int:
    """Show what the runs would take, or write their manifest."""
    sets = options.sets
    if options.table and options.grid:
        raise UserError("both table and grid are given; plan one of them")
    if options.simulate and max(options.simulate) > MOST_WORKERS:
        counts = ",".join(map(str, options.simulate))
        raise UserError(f"simulate is '{counts}'; it takes numbers of workers from 1 to {MOST_WORKERS:,}")
    if options.grid:
        grid, cells = grid_cells(grid_file(options.grid), overrides, fetch=False)
        specs = [spec for group in trees(cells) for spec in group]
        lines = manifests.grid_lines(options.grid, grid, overrides)
    elif options.table:
        table = table_file(options.table)
        rows, specs = table_runs(table, overrides, options.rows or "", fetch=False)
        seeds = [shifted(specs[0], index).seeds for index in range(sets)]
        lines = manifests.table_lines(table, rows, overrides, seeds)
    else:
        specs = [run_spec(overrides, fetch=False)]
        lines = [["run", *overrides]]
    if options.manifest:
        if sets > 1 and not options.table:
            raise UserError(
                f"sets is {sets}, but only a table's manifest has seed sets; give seeds=... instead"
            )
        path = Path(options.manifest).expanduser()
        subject = given(options, ("grid", "table", "rows", "sets")) or ["run"]
        manifests.write_manifest(path, shlex.join([*subject, *overrides]), [*map(anywhere, lines)])
        print(f"{path}: {len(lines)} tasks; 'erk-bench task {path} 0' runs the first")
        return 0
    specs = [shifted(spec, index) for index in range(sets) for spec in specs]
    return show_plan(
        [*_solutions(specs), *specs],
        Rates(options.throughput or 0.0, options.throughput_rest or 0.0),
        shared=bool(options.grid),
        workers=options.simulate or (),
        memory=options.memory,
    )


def _solutions(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """What the runs' solver errors need beside them."""

    def sampled(spec: RunSpec) -> RunSpec:
        return dataclasses.replace(spec, metrics=specs[0].metrics, samples="none")

    planned = {sampled(spec) for spec in specs}
    return [run for run in converged_of(specs) if sampled(run) not in planned]


def show_plan(
    specs: Sequence[RunSpec],
    rates: Rates,
    *,
    shared: bool = False,
    workers: Sequence[int] = (),
    memory: float | None = None,
) -> int:
    """What is left to do, and what it takes; nothing is sampled or written.

    shared: the runs are cells of a grid, and share trajectories. workers: numbers of them, for which the time
    is simulated. memory: of a GPU in GB, whose largest block_size is found.
    """
    table = RichTable(title="plan")
    for header in (
        "run", "images", "blocks done", "NFE / image", "evaluations left", "TFLOPs left", "features",
        "images on disk",
    ):  # fmt: skip
        table.add_column(header, justify="left" if header == "run" else "right")
    total, features, pixels = Operations(), 0.0, 0.0
    rows: list[list[Operations]] = []  # of each run's blocks
    unknown = list(dict.fromkeys(path for spec in specs for path in spec.own_code))
    for spec in specs:
        name, done, blocks = _progress_of(spec)
        left = (blocks - done) * spec.block_size
        cost = planning.estimate(spec)
        work = Operations.of(cost)
        nfe, nfe_guide = cost.nfe, cost.nfe_guide
        known = not math.isnan(nfe)
        if known:
            total += work.times(left)
            rows.append([work.times(spec.block_size)] * (blocks - done))
        features += left * cost.feature_bytes
        pixels += 0 if math.isnan(cost.image_bytes) else left * cost.image_bytes
        table.add_row(
            name,
            f"{len(spec.seed_range):,}",
            f"{done} / {blocks}",
            (f"{nfe} + {nfe_guide}" if nfe_guide else str(nfe)) if known else DASH,
            f"{work.evaluations * left:,.0f}" if known else DASH,
            f"{work.flops * left / 1e12:,.0f}" if known else DASH,
            _size(left * cost.feature_bytes),
            _size(left * cost.image_bytes),
        )
    wide_console().print(table)
    show_parts(specs)
    kept = "" if specs[0].samples == "none" else f"; images {_size(pixels)} (samples=none keeps none)"
    all_unknown = all(spec.own_code for spec in specs)
    work_told = "evaluations that only a run can count" if all_unknown else total.told()
    print(
        f"to do: {work_told}; on disk: features "
        f"{_size(features)}{kept or f', no images (they would take {_size(pixels)})'}"
    )
    for name in dict.fromkeys(spec.numerics for spec in specs):
        print(f"arithmetic on a GPU: numerics={name} ({NUMERICS[name].says})")
    if shared:
        print(
            "that is for separate runs: 'erk-bench grid' shares trajectories and needs less (a quarter to a "
            "half on the digits grid)"
        )
    if unknown:
        print(
            f"evaluations and time of {', '.join(unknown)} are not known: only running the file would tell, "
            "and planning runs nobody's code"
        )
    show_memory(specs, memory)
    known_cost = next((spec for spec in specs if not spec.own_code), None)
    rates = Rates() if known_cost is None else _print_time(known_cost, total, rates)
    if workers and unknown:
        raise UserError(
            f"simulate needs the cost of a block, and that of {unknown[0]} is not known; leave out simulate"
        )
    if workers:
        if not rates.networks:
            raise UserError("simulate needs the speed of a worker; give throughput=TFLOP/s of one GPU")
        _simulate([[rates.hours(block) for block in row] for row in rows if row], workers)
    assets = assets_of(specs[0])
    missing = dict.fromkeys(
        address for spec in specs for address in addresses_of(spec) if not assets.is_here(address)
    )
    if missing:
        print(
            f"missing: {len(missing)} files; 'erk-bench fetch' with the same settings (or table=...) gets "
            "them:"
        )
        for address in missing:
            print(f"  {address}")
    return 0


def _progress_of(spec: RunSpec) -> tuple[str, int, int]:
    """Name, finished blocks and all blocks; nothing can be finished while weights were never here."""
    total = len(blocks_of(spec.seed_range, spec.block_size))
    assets = assets_of(spec)
    if spec.unknown_weights:
        return f"{spec.slug} (not fetched)", 0, total
    if not all(assets.is_here(address) for address in addresses_of(spec)):
        return spec.run_id, 0, total
    return spec.run_id, total - len(unfinished(spec, assets, features=True)), total


def _size(count: float) -> str:
    if math.isnan(count):
        return DASH
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _simulate(rows: Sequence[Sequence[float]], counts: Sequence[int]) -> None:
    """Print how long so many workers would take under each rule. rows: hours of each run's blocks."""
    if not rows:
        print("nothing is left to simulate")
        return
    conditions = simulating.Conditions()
    table = RichTable(title=f"simulated: {sum(map(len, rows)):,} blocks of {len(rows)} runs")
    for header in ("workers", "rule", "hours", "of the shortest", "idle", "lost work"):
        table.add_column(header, justify="left" if header == "rule" else "right")
    for count in counts:
        shortest = simulating.shortest(rows, count, conditions)
        for rule in simulating.RULES:
            found = simulating.simulate(rows, count, rule, conditions)
            table.add_row(
                f"{count:,}", rule, f"{found.makespan:,.3g}", f"{found.makespan / shortest:.2f}",
                f"{found.idle:.0%}", f"{found.lost:.1%}",
            )  # fmt: skip
    wide_console().print(table)
    print(
        f"assumed: log speeds spread by {conditions.speed_spread:g}, {conditions.slow_share:.0%} of workers "
        f"at {conditions.slow_speed:g} of the speed, nodes of {simulating.NODE} preempted every "
        f"{conditions.mean_uptime:g} hours for {conditions.pause * 60:g} minutes (docs/performance.md)"
    )


def _print_time(spec: RunSpec, work: Operations, rates: Rates) -> Rates:
    """Also returns the speed of a worker; 0 where it is not known."""
    workers = launch.default_workers(spec)
    if rates.networks:
        parts = rates.parts(work)
        named = ", ".join(f"{name} {hours:,.2f}" for name, hours in parts.items() if hours)
        told = f" and {rates.rest:g} in decoding and features" if rates.rest else ""
        hours = f"{sum(parts.values()):,.2f} GPU-hours"
        print(f"about {hours} at {rates.networks:g} TFLOP/s{told}: {named or 'nothing'}")
        if not rates.rest and spec.network_dtype != "float32" and work.decoding + work.features:
            print(
                "decoding and features are counted at the networks' speed, but float32 and TF32 are slower; "
                "throughput_rest=TFLOP/s counts them at their own"
            )
        return rates
    measured = planning.measured_rate(spec)
    if measured is None:
        print("time: no GPU here; give throughput=TFLOP/s of one GPU for an estimate in GPU-hours")
        return Rates()
    rates = Rates(measured / 1e12)
    needed = rates.hours(work)
    print(
        f"about {needed:,.2f} worker-hours on this machine ({needed * 60 / workers:,.1f} minutes with "
        f"{workers} workers), at {measured / 1e12:,.2f} TFLOP/s, as just timed on this network's size"
    )
    return rates
