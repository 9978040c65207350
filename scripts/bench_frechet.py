"""Times our Frechet distance beside SciPy's matrix square root and torch-fidelity's, on the same statistics.

The three take turns, so that a busy machine slows all of them; ratios are taken within a turn. Prints the
median ratios with their range and how far the values agree, and writes frechet.json and frechet.md.
Usage: python scripts/bench_frechet.py [--dimension 2048] [--repeats 5] [--threads 2] [--to results/bench]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy
import scipy.linalg
import torch
from threadpoolctl import threadpool_limits
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

from erk_bench.evaluation.frechet import FeatureStats, FeatureSums, frechet_distance
from erk_bench.files import write_atomic

NUM_FACTORS = 32  # shared directions that correlate the features
ROW = "| {} | {} | {} | {} |\n"


def random_stats(num_images: int, dimension: int, seed: int) -> FeatureStats:
    """Statistics of features with decaying scales and a few shared directions, as networks' have."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scales = torch.arange(1, dimension + 1, dtype=torch.float64) ** -0.5
    own = draw(num_images, dimension) * scales
    shared = draw(num_images, NUM_FACTORS) @ draw(NUM_FACTORS, dimension) / NUM_FACTORS
    return FeatureSums.of(own + shared + 0.1 * draw(dimension)).stats()


def ours(a: FeatureStats, b: FeatureStats) -> float:
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def scipy_sqrtm(a: FeatureStats, b: FeatureStats) -> float:
    """The usual program: trace of scipy.linalg.sqrtm of the product."""
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    gap = (a.mean - b.mean).square().sum()
    return float(gap + a.covariance.trace() + b.covariance.trace() - 2 * np.trace(root).real)


def torch_fidelity(a: FeatureStats, b: FeatureStats) -> float:
    sides = [{"mu": each.mean.numpy(), "sigma": each.covariance.numpy()} for each in (a, b)]
    return float(fid_statistics_to_metric(*sides, False)[KEY_METRIC_FID])


METHODS: dict[str, Callable[[FeatureStats, FeatureStats], float]] = {
    "ours": ours,
    "scipy.linalg.sqrtm": scipy_sqrtm,
    "torch-fidelity": torch_fidelity,
}


def measure(
    a: FeatureStats, b: FeatureStats, repeats: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every turn and the value, by method."""
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    values = {}
    for _ in range(repeats):
        for name, method in METHODS.items():
            start = time.perf_counter()
            values[name] = method(a, b)
            seconds[name].append(time.perf_counter() - start)
    return seconds, values


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimension", type=count, default=2048, help="of the features")
    parser.add_argument("--repeats", type=count, default=5, help="turns of each method")
    parser.add_argument("--threads", type=count, default=2, help="of all three methods")
    parser.add_argument("--to", type=Path, default=Path("results/bench"), help="folder for the tables")
    options = parser.parse_args(arguments)
    num_images = max(5000, 2 * options.dimension)  # covariances of full rank
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        with threadpool_limits(limits=options.threads):  # NumPy's and SciPy's
            a, b = (random_stats(num_images, options.dimension, seed) for seed in (1, 2))
            measure(random_stats(100, 16, 1), random_stats(100, 16, 2), repeats=1)  # loads the libraries
            seconds, values = measure(a, b, options.repeats)
    finally:
        torch.set_num_threads(before)

    ratios = {
        name: [theirs / own for theirs, own in zip(seconds[name], seconds["ours"], strict=True)]
        for name in METHODS
    }
    differences = {name: abs(values[name] / values["ours"] - 1) for name in METHODS}
    rows = {
        name: {
            "value": values[name],
            "relative_difference": differences[name],
            "seconds": seconds[name],
            "times_ours": ratios[name],
            "times_ours_median": statistics.median(ratios[name]),
        }
        for name in METHODS
    }
    settings = {
        "dimension": options.dimension,
        "images": num_images,
        "repeats": options.repeats,
        "threads": options.threads,
        "machine": platform.machine(),
        "torch": torch.__version__,
        "scipy": scipy.__version__,
        "numpy": np.__version__,
    }
    text = (
        f"Frechet distance of {options.dimension}-d statistics: {options.repeats} turns, {options.threads} "
        f"threads, torch {torch.__version__}, SciPy {scipy.__version__}, NumPy {np.__version__}.\n"
        "Made by `make bench-frechet`; machines are shared, so only the ratios count.\n\n"
    )
    text += ROW.format(
        "method", "median seconds", "times ours: median (range)", "relative difference of value"
    )
    text += ROW.format("---", "---", "---", "---")
    for name in METHODS:
        text += ROW.format(
            name,
            f"{statistics.median(seconds[name]):.3g}",
            f"{statistics.median(ratios[name]):.2f} ({min(ratios[name]):.2f} to {max(ratios[name]):.2f})",
            f"{differences[name]:.1e}",
        )
    write_atomic(
        options.to / "frechet.json", (json.dumps({**settings, "methods": rows}, indent=1) + "\n").encode()
    )
    write_atomic(options.to / "frechet.md", text.encode())
    print(text, end="")


if __name__ == "__main__":
    main()
