"""Paired differences between steps in the angle and the strongest other solvers, over disjoint sets of seeds.

Each set of digits is drawn by every method from the same noise. FD-digits is the mean over the sets; a
difference is the mean over the sets of the pairs, with the standard error of that mean. The table is printed,
and written to --to. --methods: rivals, or options of the angle. --network: another denoiser in place of the
shipped one.
Usage: python scripts/angle_sets.py [--methods rivals] [--sets 8] [--images 1000] [--first 20000] [--most 8]
       [--network FILE] [--to results/bench/angle-sets.md]
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

import erk_bench
from erk_bench.base.assets import Assets
from erk_bench.base.files import write_atomic
from erk_bench.digits.data import decode, load_digits
from erk_bench.evaluation.detectors import DIGITS_WEIGHTS, load_digits_detector
from erk_bench.evaluation.frechet import FeatureSums, FrechetTarget

GUIDE = "package:digits/weights/unconditional.safetensors"
BEST = {"solver": "angle", "basis": "trigonometric", "corrector": True}
# By --methods; the first of each is the one that others are compared with.
METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "rivals": {
        "DEIS": {"solver": "deis"},
        "UniPC, angle levels": {"solver": "unipc", "schedule": "angle"},
        "iPNDM, angle levels": {"solver": "ipndm", "schedule": "angle"},
        "Angle": {"solver": "angle"},
        "Angle, trigonometric, corrector": BEST,
    },
    "options": {
        "Angle": {"solver": "angle"},
        "trigonometric": {"solver": "angle", "basis": "trigonometric"},
        "trigonometric, corrector": BEST,
        "the same, ERK-Guid (0.5, 0)": {**BEST, "w_stiff": 0.5, "w_con": 0.0},
        "the same, sigma_max 10": {**BEST, "sigma_max": 10.0},
    },
}
# Guidance weight (1: none) and evaluations of each network.
PLACES = ((1.0, 4), (1.25, 4), (1.0, 6), (1.25, 6), (1.0, 8))


def shown(values: list[float]) -> str:
    """Mean and its standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):+.4f} ± {error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--sets", type=int, default=8)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--first", type=int, default=20_000)
    parser.add_argument("--network", default="digits")
    parser.add_argument("--methods", choices=METHODS, default="rivals")
    parser.add_argument("--most", type=int, default=8, help="evaluations, at most")
    parser.add_argument("--to", type=Path)
    given = parser.parse_args()
    assets = Assets.from_environment()
    net, guide = erk_bench.load_denoiser(given.network), erk_bench.load_denoiser(str(assets.locate(GUIDE)))
    extract = load_digits_detector(assets.locate(DIGITS_WEIGHTS))
    target = FrechetTarget(FeatureSums.of(extract(load_digits().images)["features"]).stats())

    last = given.first + given.sets * given.images - 1
    methods = METHODS[given.methods]
    base, *others = methods
    columns = ["guidance", "evaluations", *methods, *(f"{name} - {base}" for name in others)]
    lines = [
        f"Made by `python {' '.join(sys.argv)}`.\n",
        f"FD-digits of {given.sets} sets of {given.images:,} images (seeds {given.first}-{last}) and what "
        f"the others have more than {base} on the same seeds.\n",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    print("\n".join(lines), flush=True)
    for weight, count in (place for place in PLACES if place[1] <= given.most):
        found: dict[str, list[float]] = {name: [] for name in methods}
        guided: dict[str, Any] = {"guide": guide, "guidance": weight} if weight != 1 else {}
        for number in range(given.sets):
            start = given.first + number * given.images
            noise, labels = erk_bench.draw(range(start, start + given.images), net)
            for name, options in methods.items():
                x = erk_bench.sample(net, noise, labels, num_steps=count + 1, **options, **guided)
                features = extract(decode(x))["features"]
                found[name].append(target.distance(FeatureSums.of(features).stats()))
        cells = [f"{statistics.fmean(values):.4f}" for values in found.values()]
        cells += [shown([a - b for a, b in zip(found[name], found[base], strict=True)]) for name in others]
        guidance = "none" if weight == 1 else f"CFG {weight:g}"
        lines.append(f"| {guidance} | {count} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if given.to:
        write_atomic(given.to, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
