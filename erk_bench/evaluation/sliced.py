"""MIND: the sliced Wasserstein distance of two sets of features (arXiv 2605.06797)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erk_bench.evaluation.measured import Extracted, Measured, features_of
from erk_bench.evaluation.needs import SHUFFLE_SEED, mind_lack, refuse_lack
from erk_bench.evaluation.reference_files import Real
from erk_bench.spec import MetricsSpec

NUM_DIRECTIONS = 1000
CHUNK = 64  # directions at a time: 26 MB a float64 array of 50,000 images
SMALLEST_NORM = 1e-12


def mind(images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec) -> dict[str, Measured]:
    """MIND with torch-fidelity's draws: 1,000 directions, the larger set cut to the size of the smaller."""
    real_features = features_of(real)
    refuse_lack(spec, mind_lack, len(groups), len(real_features))
    value, replicates = sliced_without_groups(images.features, real_features, groups, spec.num_groups)
    return {"mind": Measured(value, tuple(replicates))}


def sliced_without_groups(
    images: Tensor,
    real: Tensor,
    groups: Tensor,
    num_groups: int,
    num_directions: int = NUM_DIRECTIONS,
    seed: int = SHUFFLE_SEED,
) -> tuple[float, list[float]]:
    """3 D times the mean over directions of the squared 1-D Wasserstein distance, and that without groups.

    images [N, D], real [M, D]; groups int64 [N]. The larger set gives the first min(N, M) images of a seeded
    permutation. Without a group of `images` the two sizes differ; the directions and the real images stay,
    and the squared distance is that of the two empirical distributions, whose quantile functions are steps
    of different lengths. Cost: N directions log N for sorting, and N directions for each group.
    """
    kept, kept_real, directions = draws(len(images), len(real), images.shape[1], num_directions, seed)
    x, y, of = images[kept].float(), real[kept_real].float(), groups[kept]
    count = len(x)
    sizes = (count - of.bincount(minlength=num_groups)).tolist()
    steps = {size: _steps(count, size) for size in sorted(set(sizes))}
    total, totals = 0.0, np.zeros(num_groups)
    for some in directions.split(CHUNK):
        projected, order = (some @ x.T).sort(dim=1)  # [directions, count]
        ordered = projected.double()
        target = (some @ y.T).sort(dim=1).values.double()
        total += float((ordered - target).square().sum())
        # Of the real images: the squares, and the quantile function integrated over steps of 1 / size.
        real_square = float(target.square().sum()) / count
        member = of[order].numpy().astype(np.int16)
        values = ordered.numpy()  # NumPy's masks are several times as fast as torch's
        for size, step in steps.items():
            pieces = _integrals(target, *step)
            for group in (number for number, left in enumerate(sizes) if left == size):
                rest = values[member != group]
                totals[group] += float(rest @ rest) / size + real_square - 2 * float(rest @ pieces)
    scale = 3 * images.shape[1] / num_directions
    return scale * total / count, (scale * totals).tolist()


def draws(
    num_images: int, num_real: int, dim: int, num_directions: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Which images and real ones are compared, int64, and unit directions [num_directions, dim], float32.

    The order of the draws is torch-fidelity's: one generator, first the images of the larger set.
    """
    generator = torch.Generator().manual_seed(seed)
    count = min(num_images, num_real)
    kept, kept_real = (
        torch.arange(count) if size == count else torch.randperm(size, generator=generator)[:count]
        for size in (num_images, num_real)
    )
    directions = torch.randn(num_directions, dim, generator=generator)
    return kept, kept_real, directions / directions.norm(dim=1, keepdim=True).clamp(min=SMALLEST_NORM)


def _integrals(values: Tensor, left: Tensor, share: Tensor) -> NDArray[np.float64]:
    """Of a step function with sorted values [directions, count]: its integrals over the steps of `_steps`.

    Flat, direction by direction: [directions * size].
    """
    count = values.shape[1]
    whole = torch.nn.functional.pad(values.cumsum(1), (1, 0)) / count
    return (whole[:, left] + share * values[:, left.clamp(max=count - 1)]).diff(dim=1).flatten().numpy()


def _steps(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Where i / size lies among steps of 1 / count, for i from 0 to size: whole steps below it, int64
    [size + 1], and its share of the next step as a length, float64."""
    ends = torch.arange(size + 1) * count
    left = ends // size
    return left, (ends - left * size).double() / (size * count)
