"""Draws the Figures 1 to 3 and Proposition 1 of the paper on the exact 2D mixture (make figures)."""

from __future__ import annotations

import argparse
from pathlib import Path

from erk_bench.studies.analysis.figures import FIGURES, draw_all
from erk_bench.studies.analysis.measure import cosine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("results/figures"), help="folder (results/figures)")
    parser.add_argument(
        "--only", nargs="+", choices=FIGURES, default=list(FIGURES), help="some of the pictures"
    )
    words = parser.parse_args()
    found = draw_all(words.to, words.only)
    print("mean |cos| with the dominant eigenvector, by its |lambda|:")
    print("  |lambda|      steps   LTE    dx     df")
    for low, high in ((0, 1), (1, 10), (10, 30), (30, float("inf"))):
        rows = (found.size >= low) & (found.size < high)
        means = [
            cosine(each, found.eigenvector)[rows].mean().item() for each in (found.lte, found.dx, found.df)
        ]
        print(
            f"  {low:>3g} to {high:<5g} {int(rows.sum()):6d}  " + "  ".join(f"{mean:.3f}" for mean in means)
        )
    print(f"pictures and CSV: {words.to}/")


if __name__ == "__main__":
    main()
