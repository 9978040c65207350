"""Chooses (w_stiff, w_con) for each step count of the digits table, on seeds that the table does not use.

Prints FD-digits of every cell of a small grid and the best one, and writes results/digits_choice.csv.
Usage: python scripts/choose_digits_weights.py [settings of a run, such as seeds=2000000-2000999]
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from erk_bench import launch, stages
from erk_bench.cli import run_spec
from erk_bench.tables import paired_difference

STEPS = (4, 6, 8, 16, 32)
W_STIFF = (0.25, 0.5, 0.75, 1.0, 1.5)
W_CON = (0.0, 0.3, 1.0, 2.0)


def main() -> None:
    base = ["seeds=1000000-1000999", "metrics.names=[fd_digits]", *sys.argv[1:]]
    rows = []
    for steps in STEPS:
        common = [*base, f"schedule.num_steps={steps}"]
        cells = [(0.0, 0.0), *((w_stiff, w_con) for w_stiff in W_STIFF for w_con in W_CON)]
        specs = [
            run_spec([*common, "correction=erk_guid", f"correction.w_stiff={a}", f"correction.w_con={b}"])
            for a, b in cells
        ]
        launch.compute([specs], features=True, title=f"{steps} steps, {len(cells)} cells")
        records = [stages.score(spec) for spec in specs]
        for cell, record in zip(cells, records, strict=True):
            metric = record.metrics["fd_digits"]
            difference, error = paired_difference(record, records[0], "fd_digits")
            rows.append([steps, *cell, metric.value, metric.standard_error, difference, error])
        best = min(rows[1 - len(cells) :], key=lambda row: row[3])  # the first cell is plain Heun
        print(
            f"{steps} steps: plain {records[0].metrics['fd_digits'].value:.3f}; best "
            f"(w_stiff {best[1]:g}, w_con {best[2]:g}) {best[3]:.3f}, "
            f"difference {best[5]:+.3f} ± {best[6]:.3f}",
            flush=True,
        )
    with Path("results/digits_choice.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["steps", "w_stiff", "w_con", "fd_digits", "se", "difference", "difference_se"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
