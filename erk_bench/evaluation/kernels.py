"""Kernel distances of two sets of features: sums over all pairs of images, in blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from erk_bench.evaluation.infinity import DGM_SEED
from erk_bench.evaluation.measured import Extracted, Measured, features_of
from erk_bench.evaluation.needs import (
    SHUFFLE_SEED,
    kernel_lack,
    one_real_lack,
    refuse_lack,
)
from erk_bench.evaluation.neighbours import blocks_of
from erk_bench.evaluation.reference_files import Real
from erk_bench.spec import MetricsSpec

KERNEL_BLOCK = 2_048  # a block is 34 MB of float64
KD_SUBSETS, KD_SUBSET_SIZE = 100, 1_000  # dgm-eval's, which a set of fewer images lowers
CMMD_SIGMA, CMMD_SCALE = 10.0, 1_000.0  # arXiv 2401.09603

Kernel = Callable[[Tensor, Tensor], Tensor]  # float64 [n, D], [m, D] -> [n, m]


def kernel_distance(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """KID (arXiv 1801.01401): mean of torch-fidelity's random subsets, cubic polynomial kernel.

    The replicates are of the unbiased estimate over all images, of which the subsets' mean is a noisier copy.
    """
    real_features = features_of(real)
    refuse_lack(spec, kernel_lack, len(images.features), len(real_features))
    from torch_fidelity.metric_kid import kid_features_to_metric  # here: it takes seconds to import

    value = kid_features_to_metric(
        images.features,
        real_features,
        kid_subsets=spec.kid_subsets,
        kid_subset_size=spec.kid_subset_size,
        rng_seed=SHUFFLE_SEED,
        verbose=False,
    )["kernel_inception_distance_mean"]
    distances = unbiased_kernel_distances(images.features, real_features, groups, spec.num_groups)
    return {"kid": Measured(float(value), tuple(distances))}


def dgm_kernel_distance(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """KD of dgm-eval: KID's kernel, mean of 100 subsets of 1,000 images, or of all of a smaller set.

    The program never seeds its draws; here NumPy's generator has its default seed, 13579. The replicates are
    of the unbiased estimate over all images.
    """
    real_features = features_of(real)
    refuse_lack(spec, one_real_lack, len(groups), len(real_features))
    values = subset_distances(images.features, real_features)
    distances = unbiased_kernel_distances(images.features, real_features, groups, spec.num_groups)
    return {"kd": Measured(float(np.mean(values)), tuple(distances))}


def cmmd(images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec) -> dict[str, Measured]:
    """CMMD (arXiv 2401.09603): 1,000 times the squared MMD of the features' directions, Gaussian kernel.

    The published embeddings have length 1, so the features of any detector are scaled to it.
    """
    value, replicates = biased_kernel_distances(
        images.features, features_of(real), groups, spec.num_groups, gaussian_kernel_of_units
    )
    scaled = tuple(CMMD_SCALE * replicate for replicate in replicates)
    return {"cmmd": Measured(CMMD_SCALE * value, scaled)}


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """KID's: (x.y / D + 1)^3."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian_kernel(x: Tensor, y: Tensor) -> Tensor:
    """CMMD's: exp(-|x - y|^2 / (2 sigma^2)), sigma = 10."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return (squares.clamp_(min=0) / (-2 * CMMD_SIGMA**2)).exp_()


def gaussian_kernel_of_units(x: Tensor, y: Tensor) -> Tensor:
    """The same of rows scaled to length 1."""
    return gaussian_kernel(torch.nn.functional.normalize(x), torch.nn.functional.normalize(y))


def subset_distances(
    x: Tensor,
    y: Tensor,
    num_subsets: int = KD_SUBSETS,
    size: int = KD_SUBSET_SIZE,
    seed: int = DGM_SEED,
) -> list[float]:
    """Unbiased cubic-kernel distances of random subsets of x [N, D] and y [M, D], in dgm-eval's draws.

    Of each subset the images of y, the real ones, are drawn first.
    """
    random = np.random.RandomState(seed)
    size = min(size, len(x), len(y))
    found = []
    for _ in range(num_subsets):
        of_y, of_x = (each[random.choice(len(each), size, replace=False)].double() for each in (y, x))
        within = sum(
            kernel.sum() - kernel.trace() for kernel in (cubic_kernel(of_x, of_x), cubic_kernel(of_y, of_y))
        )
        found.append(float(within / (size * (size - 1)) - 2 * cubic_kernel(of_x, of_y).mean()))
    return found


def unbiased_kernel_distances(
    x: Tensor, y: Tensor, groups: Tensor, num_groups: int, block: int = KERNEL_BLOCK
) -> list[float]:
    """The unbiased estimate of KID over all images (arXiv 1801.01401, eq. 4), without each group of `x`.

    x [N, D], y [M, D]; cubic polynomial kernel, in float64. Cost: half of N N and of M M, and N M products.
    """
    real_sum, within, cross = _sums(x, y, groups, num_groups, cubic_kernel, 0, block)
    left = len(x) - groups.bincount(minlength=num_groups)
    rests = _without_groups(within)
    distances = rests / (left * (left - 1)) + real_sum / (len(y) * (len(y) - 1))
    return (distances - 2 * (cross.sum() - cross) / (left * len(y))).tolist()


def biased_kernel_distances(
    x: Tensor, y: Tensor, groups: Tensor, num_groups: int, kernel: Kernel, block: int = KERNEL_BLOCK
) -> tuple[float, list[float]]:
    """The squared MMD of x [N, D] and y [M, D] where each image counts with itself, too, and that without
    each group of `x`.

    kernel: of an image and itself it is 1. The cost is that of `unbiased_kernel_distances`.
    """
    real_sum, within, cross = _sums(x, y, groups, num_groups, kernel, 1, block)

    def distance(within: Tensor, cross: Tensor, left: Tensor) -> Tensor:
        return within / left**2 + real_sum / len(y) ** 2 - 2 * cross / (left * len(y))

    sizes = groups.bincount(minlength=num_groups)
    value = distance(within.sum(), cross.sum(), sizes.sum())
    rests = distance(_without_groups(within), cross.sum() - cross, len(x) - sizes)
    return float(value), rests.tolist()


def _without_groups(table: Tensor) -> Tensor:
    """Sums over pairs without those of each group, of a table of sums by the groups of the two."""
    return table.sum() - table.sum(0) - table.sum(1) + table.diagonal()


def _sums(
    x: Tensor, y: Tensor, groups: Tensor, num_groups: int, kernel: Kernel, itself: float, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of kernel values over pairs: of y; of x by the two groups; of x and y by the group of x's.

    itself: the kernel of an image and itself.
    """
    alone = torch.zeros(len(y), dtype=torch.int64)
    real_sum = _table(y, alone, 1, kernel, itself, block).sum()
    within = _table(x, groups, num_groups, kernel, itself, block)
    cross = torch.zeros(num_groups, dtype=torch.float64)
    for rows in blocks_of(len(x), block):
        for columns in blocks_of(len(y), block):
            values = kernel(x[rows].double(), y[columns].double())
            cross.index_add_(0, groups[rows], values.sum(dim=1))
    return real_sum, within, cross


def _table(x: Tensor, groups: Tensor, num_groups: int, kernel: Kernel, itself: float, block: int) -> Tensor:
    """Sums of kernel values over the pairs of images, by the groups of the two."""
    table = torch.zeros(num_groups, num_groups, dtype=torch.float64)
    member = torch.nn.functional.one_hot(groups, num_groups)
    for rows in blocks_of(len(x), block):
        for columns in blocks_of(len(x), block):
            if columns.start < rows.start:
                continue  # the kernel is symmetric
            values = kernel(x[rows].double(), x[columns].double())
            if columns.start == rows.start:
                values.fill_diagonal_(itself)
            sums = member[rows].double().T @ values @ member[columns].double()
            table += sums if columns.start == rows.start else sums + sums.T
    return table
