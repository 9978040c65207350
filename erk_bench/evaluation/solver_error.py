"""The solver's error: how far each image is from the converged solution of the same equation and seed.

Unlike distances between distributions it needs no real images, and a few hundred seeds resolve it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from erk_bench.evaluation.half_samples import half_samples
from erk_bench.evaluation.measured import Extracted, Measured
from erk_bench.evaluation.real import Real
from erk_bench.spec import MetricsSpec

PIXEL = 127.5  # steps of uint8 in a unit, so that pixels span -1 to 1 as states do
TAIL = 0.9
WIDENED = 2**22  # numbers widened to float64 at a time


def rms_distances(one: Tensor, other: Tensor) -> Tensor:
    """Root mean square difference of the rows of [N, D] and [N, D], float64 [N]; uint8 spans -1 to 1."""
    unit = PIXEL if one.dtype == torch.uint8 else 1.0
    rows = max(1, WIDENED // one.shape[1])
    parts = [
        ((a.double() - b.double()) / unit).square().mean(dim=1).sqrt()
        for a, b in zip(one.split(rows), other.split(rows), strict=True)
    ]
    return torch.cat(parts)


def solver_error(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """Mean, median and 90% quantile over the images of their distance to the converged solution.

    Of the quantiles, which are not smooth, the error is that of random halves, as of recall.
    """
    distances = images.features[:, 0].numpy().astype(np.float64)
    numbers = groups.numpy()
    halves = half_samples(len(distances)).numpy()
    without = [distances[numbers != group] for group in range(spec.num_groups)]

    def mean(values: np.ndarray) -> float:
        return float(values.mean())

    def median(values: np.ndarray) -> float:
        return float(np.median(values))

    def tail(values: np.ndarray) -> float:
        return float(np.quantile(values, TAIL))

    return {
        "mean": Measured(mean(distances), tuple(map(mean, without))),
        **{
            part: Measured(
                of(distances), tuple(map(of, without)), tuple(of(distances[half]) for half in halves)
            )
            for part, of in (("median", median), ("tail", tail))
        },
    }
