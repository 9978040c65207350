"""Draws what a run of EDM2 costs against images, steps, model size and workers (results/bench/cost.*).

Costs are FLOPs of the networks alone (`erk-bench plan`) over --rate, a GPU's rate of matrix products: the
physical limit, which `make bench DEVICE=cuda` relates to what is reached. Against workers, simulated.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from erk_bench.base.files import write_atomic
from erk_bench.commands.compose import run_spec
from erk_bench.reporting.table_figures import to_bytes
from erk_bench.runs.cost import Cost, estimate
from erk_bench.studies.simulate import RULES, Conditions, shortest, simulate

SIZES = ("xs", "s", "m", "l", "xl", "xxl")
IMAGES, BLOCK, ROWS = 50_000, 50, 10  # of a run, of a block; runs of a table
STEPS = (4, 8, 16, 32, 64, 128)
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def cost(size: str, steps: int) -> Cost:
    """Of one image by Heun's method without guidance."""
    return estimate(run_spec([f"model=edm2-img512-{size}-fid", f"schedule.num_steps={steps}"], fetch=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=150.0, help="TFLOP/s of a GPU (150)")
    parser.add_argument("--to", type=Path, default=Path("results/bench"), help="folder")
    words = parser.parse_args()
    rate = words.rate * 1e12 * 3600
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    rows: list[tuple[str, object, str, float]] = []

    def curve(panel: int, xlabel: str, label: str, x: tuple[object, ...], hours: list[float]) -> None:
        axis = axes.flat[panel]
        axis.plot(range(len(x)) if isinstance(x[0], str) else x, hours, marker=".", label=label)
        if isinstance(x[0], str):
            axis.set_xticks(range(len(x)), x)
        axis.set(xlabel=xlabel, yscale="log")
        rows.extend((xlabel, each, label, value) for each, value in zip(x, hours, strict=True))

    counts = (1_000, 5_000, 10_000, 50_000, 100_000)
    for size in ("xs", "s", "xxl"):
        one = cost(size, 32).network_flops / rate
        curve(0, "images", f"EDM2-{size.upper()}, 32 steps", counts, [one * count for count in counts])
        hours = [cost(size, steps).network_flops * IMAGES / rate for steps in STEPS]
        curve(1, "steps of Heun's method", f"EDM2-{size.upper()}, 50,000 images", STEPS, hours)
    for steps in (8, 16, 32):
        hours = [cost(size, steps).network_flops * IMAGES / rate for size in SIZES]
        curve(2, "model size", f"{steps} steps, 50,000 images", SIZES, hours)
    block = cost("xxl", 32).network_flops * BLOCK / rate
    table = [[block] * (IMAGES // BLOCK)] * ROWS
    conditions = Conditions()
    curve(
        3, "workers", "limit: never idle, nothing lost", WORKERS,
        [shortest(table, count, conditions) for count in WORKERS],
    )  # fmt: skip
    for rule in RULES:
        hours = [simulate(table, count, rule, conditions).makespan for count in WORKERS]
        curve(3, "workers", rule, WORKERS, hours)
    for axis, title in zip(
        axes.flat,
        ("images", "steps", "model size", f"workers: {ROWS} runs of EDM2-XXL, 32 steps (simulated)"),
        strict=True,
    ):
        axis.set(title=title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        if title != "model size":
            axis.set_xscale("log")
    axes[0][0].set_ylabel("GPU-hours")
    axes[1][0].set_ylabel("GPU-hours")
    axes[0][1].set_ylabel("GPU-hours")
    axes[1][1].set_ylabel("hours")
    figure.suptitle(f"Cost of EDM2 at 512x512, networks alone, at {words.rate:g} TFLOP/s a GPU")
    write_atomic(words.to / "cost.png", to_bytes(figure, "png"))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("against", "value", "curve", "hours"))
    writer.writerows((*row[:3], f"{row[3]:.4g}") for row in rows)
    write_atomic(words.to / "cost.csv", buffer.getvalue().encode())
    print(f"wrote {words.to}/cost.png and cost.csv")


if __name__ == "__main__":
    main()
