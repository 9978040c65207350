"""How far the images of a run are from its converged solution, and what the record says of that."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erk_bench.base.assets import Assets
from erk_bench.base.errors import DamagedError, UserError
from erk_bench.evaluation.metrics import detectors_of, measure, solver_errors
from erk_bench.evaluation.solver_error import rms_distances
from erk_bench.runs.blocks import blocks_of
from erk_bench.runs.converged import ConvergedRuns, converged_runs
from erk_bench.runs.finish_block import detector_keys
from erk_bench.runs.listing import Listing
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec


class Distances(NamedTuple):
    """Of each image to its converged solution, float64 [N] by detector; the evaluations of each block; and
    what the record says of the converged solution."""

    by_detector: dict[str, Tensor]
    counts: list[tuple[float, float]]
    facts: dict[str, Any]


def distances_of(spec: RunSpec, assets: Assets) -> Distances:
    """From what is kept of a run and of its converged solution.

    Raises UserError where something is missing, DamagedError where some is damaged; that is set aside then.
    """
    keys = _keys(spec, assets)
    runs = converged_runs(spec)
    check_kept(spec, assets)
    by_detector, counts = _distances(spec, runs.solution, keys)
    return Distances(
        by_detector,
        counts,
        {
            "run_id": runs.solution.run_id,
            "solver": runs.solution.solver.name,
            "num_steps": runs.solution.schedule.num_steps,
            "check": {
                "run_id": runs.check.run_id,
                "num_steps": runs.check.schedule.num_steps,
                **_check(runs, tuple(keys.items())),
            },
        },
    )


def check_kept(spec: RunSpec, assets: Assets) -> None:
    """Refuse to measure while the converged solution is not complete."""
    keys = _keys(spec, assets)
    for run in converged_runs(spec) if keys else ():
        blocks, files = (
            blocks_of(run.seed_range, run.block_size),
            Listing(RunStore.open(run), [*keys.values()]),
        )
        missing = [
            block for block in blocks if not all(files.has_features(key, block) for key in keys.values())
        ]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(blocks)} blocks of the converged solution {run.run_id} are missing "
                f"(first: {missing[0]}), which solver errors of {spec.run_id} are measured from; 'erk-bench "
                "run' with the same settings computes it"
            )


def _keys(spec: RunSpec, assets: Assets) -> dict[str, str]:
    """Keys of the detectors that the run's solver errors need, by name."""
    wanted = detectors_of(solver_errors(spec.metrics.names))
    return {name: key for name, key in detector_keys(spec, assets).items() if name in wanted}


@functools.lru_cache(maxsize=64)
def _check(runs: ConvergedRuns, keys: tuple[tuple[str, str], ...]) -> dict[str, float]:
    """Solver errors of the run of half as many steps, by name."""
    found, _ = _distances(runs.check, runs.solution, dict(keys))
    measured = measure(runs.check.metrics, {}, {}, distances=found)
    return {name: each.value for name, each in measured.items()}


def _distances(
    spec: RunSpec, other: RunSpec, keys: Mapping[str, str]
) -> tuple[dict[str, Tensor], list[tuple[float, float]]]:
    """RMS distances of the seeds of two runs by detector, and the evaluations of the first, by block."""
    store, others, seeds = RunStore.open(spec), RunStore.open(other), spec.seed_range
    found: dict[str, list[Tensor]] = {name: [] for name in keys}
    counts, damaged = [], list[DamagedError]()
    for name, key in keys.items():
        for block in blocks_of(seeds, spec.block_size):
            read = []
            for each in (store, others):
                try:
                    read.append(each.read_features(key, block))
                except DamagedError as error:
                    damaged.append(error)
            if len(read) < 2:
                continue
            (mine, meta), (theirs, _) = read
            wanted = slice(max(seeds[0] - block.seeds[0], 0), seeds[-1] - block.seeds[0] + 1)
            counts.append((meta["nfe"], meta["nfe_guide"]))
            found[name].append(rms_distances(mine["features"][wanted], theirs["features"][wanted]))
    if damaged:
        raise DamagedError.of(damaged)
    return {name: torch.cat(parts) for name, parts in found.items()}, counts
