"""Times a grid with shared trajectories beside the same cells as separate runs, on the same seeds.

The two take turns, so that a busy machine slows both; ratios are taken within a turn. Sampling and features
are timed, in one process and without its start. Prints a line for each step count, writes grid.json, grid.md.
Usage: python scripts/bench_grid.py [--grid digits] [--steps 6,8,16] [--seeds 0-124] [--repeats 3]
       [--to results/bench]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from erk_bench import stages
from erk_bench.composing import grid_cells, grid_file
from erk_bench.files import write_atomic
from erk_bench.grids import trees
from erk_bench.spec import RunSpec
from erk_bench.storage.blocks import Worker, blocks_of
from erk_bench.storage.store import RunStore

ROW = "| {} | {} | {} | {} |\n"


def groups_of(grid: str, steps: str, seeds: str, out: Path) -> list[list[RunSpec]]:
    settings = [f"schedule.num_steps={steps}", f"seeds={seeds}", f"out={out}", "device=cpu"]
    return trees(grid_cells(grid_file(grid), settings)[1])


def seconds_for(groups: Sequence[Sequence[RunSpec]], *, shared: bool) -> float:
    start = time.perf_counter()
    stages.generate(groups, Worker(), lambda spec, count: None, features=True, shared=shared)
    return time.perf_counter() - start


def share_of(groups: Sequence[Sequence[RunSpec]]) -> float:
    """Counted evaluations over those of separate runs."""
    used = separate = 0.0
    for spec in (spec for group in groups for spec in group):
        timings = RunStore.open(spec).timings().values()
        used += sum(timing.evaluations or 0.0 for timing in timings)
        blocks = blocks_of(spec.seed_range, spec.block_size)
        separate += (2 * spec.schedule.num_steps - 1) * len(blocks) * spec.block_size
    return used / separate


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", default="digits", help="a grid of configs/grid, Heun without guidance")
    parser.add_argument("--steps", default="6,8,16", help="step counts, a line each")
    parser.add_argument("--seeds", default="0-124", help="FIRST-LAST")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way")
    parser.add_argument("--to", type=Path, default=Path("results/bench"), help="folder for the tables")
    options = parser.parse_args(arguments)
    text = (
        f"Grid '{options.grid}' with shared trajectories and as separate runs: seeds {options.seeds}, "
        f"{options.repeats} turns, one thread, torch {torch.__version__}.\n"
        "Made by `make bench-grid`; machines are shared, so only the ratios count.\n\n"
    )
    text += ROW.format("steps", "cells", "evaluations of separate runs'", "times faster: median (range)")
    text += ROW.format("---", "---", "---", "---")
    rows = []
    for steps in options.steps.split(","):
        ratios = []
        for turn in range(options.repeats + 1):
            with tempfile.TemporaryDirectory() as folder:
                shared = groups_of(options.grid, steps, options.seeds, Path(folder, "shared"))
                alone = groups_of(options.grid, steps, options.seeds, Path(folder, "alone"))
                ratio = seconds_for(alone, shared=False) / seconds_for(shared, shared=True)
                if turn:  # the first turn loads networks
                    ratios.append(ratio)
                share = share_of(shared)
        cells = sum(len(group) - 1 for group in shared)
        rows.append({"steps": int(steps), "cells": cells, "share": share, "times_faster": ratios})
        faster = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        text += ROW.format(steps, f"{cells} + baseline", f"{share:.1%}", faster)
        print(
            f"grid of {cells} cells, {steps} steps: {share:.1%} of the separate runs' evaluations, "
            f"{statistics.median(ratios):.2f} times faster wall clock"
        )
    settings = {"grid": options.grid, "seeds": options.seeds, "torch": torch.__version__}
    write_atomic(options.to / "grid.json", (json.dumps({**settings, "rows": rows}, indent=1) + "\n").encode())
    write_atomic(options.to / "grid.md", text.encode())


if __name__ == "__main__":
    main()
