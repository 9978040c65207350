"""Which images published programs of the Frechet distance at infinity fit their straight line to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CF_SMALLEST = 5_000  # images in the smallest set of Chong and Forsyth's program
NUM_NODES = 15
CF_SEED = 0  # NumPy's; neither program seeds its draws
DGM_SEED = 13579  # dgm-eval's default, which it does not use for its draws


def chong_forsyth_subsets(count: int, smallest: int = CF_SMALLEST, seed: int = CF_SEED) -> list[Tensor]:
    """Sets of `smallest` to `count` images, as indices, int64: the first of one array that is shuffled again
    for each of 15 sizes."""
    random, order = np.random.RandomState(seed), np.arange(count)
    subsets = []
    for size in np.linspace(smallest, count, NUM_NODES).astype(int).tolist():
        random.shuffle(order)
        subsets.append(torch.from_numpy(order[:size].copy()))
    return subsets


def dgm_infinity_subsets(count: int, seed: int = DGM_SEED) -> list[Tensor]:
    """Sets of a tenth of `count` images (5,000 at most) to all of them, each drawn anew, int64."""
    random = np.random.default_rng(seed)
    sizes = np.linspace(min(5_000, max(count // 10, 2)), count, NUM_NODES).astype(int).tolist()
    return [torch.from_numpy(random.choice(count, size, replace=False)) for size in sizes]


def fewest_left(subsets: list[Tensor], groups: Tensor) -> tuple[int, int]:
    """Size of the smallest set, and how many of its images are left without some group."""
    smallest = min(subsets, key=len)
    return len(smallest), len(smallest) - int(groups[smallest].bincount().max())
