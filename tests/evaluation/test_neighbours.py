"""Blocked distances and kernel sums against torch-fidelity and brute force, and their memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_prc import prc_features_to_metric

from erk_bench.evaluation.neighbours import (
    Neighbourhoods,
    nearest_by_group,
    precision_recall_without_groups,
)


def random_features(count: int, seed: int, dim: int = 32) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def contiguous(count: int, num_groups: int) -> Tensor:
    return torch.arange(count) * num_groups // count


def theirs(images: Tensor, real: Tensor, block: int, save_cpu_ram: bool = False) -> tuple[float, float]:
    """torch-fidelity's precision and recall, in its own blocks."""
    found = prc_features_to_metric(
        images, real, prc_batch_size=block, save_cpu_ram=save_cpu_ram, verbose=False
    )
    return found["precision"], found["recall"]


def whole_numbers(count: int, seed: int) -> Tensor:
    """Coarse features, exact in float32: many images are equal and many distances tie."""
    return torch.randint(0, 3, (count, 5), generator=torch.Generator().manual_seed(seed)).float()


def ours(images: Tensor, real: Tensor, block: int, num_groups: int = 5) -> Neighbourhoods:
    groups = contiguous(len(images), num_groups)
    return precision_recall_without_groups(images, real, groups, num_groups, 3, block)


@pytest.mark.parametrize("block", [40, 41, 1000])
@pytest.mark.parametrize("save_cpu_ram", [False, True])
def test_values_equal_torch_fidelity_bit_for_bit(block: int, save_cpu_ram: bool) -> None:
    images, real = random_features(230, 1), 1.02 * random_features(210, 2)
    found = ours(images, real, block)
    assert (found.precision, found.recall) == theirs(images, real, block, save_cpu_ram)
    assert 0.1 < found.precision < 0.95
    assert 0.1 < found.recall < 0.95


@pytest.mark.parametrize("block", [40, 1000])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_copies_and_close_points_equal_torch_fidelity(block: int, offset: float) -> None:
    """Distances of rounding only (float32 subtracts large squares far from the origin) decide here."""
    real = random_features(200, 3)
    copies = real[:60].repeat(2, 1)
    near = real[60:120] + 1e-4 * random_features(60, 4)
    far = 3 * random_features(60, 5)
    images = torch.cat([copies, near, far])[torch.randperm(240, generator=torch.Generator().manual_seed(6))]
    images, real = images + offset, real + offset
    found = ours(images, real, block)
    assert (found.precision, found.recall) == theirs(images, real, block)
    assert 0.1 < found.precision < 1


@pytest.mark.parametrize("block", [17, 64, 1000])
def test_replicates_do_not_depend_on_the_blocks(block: int) -> None:
    images, real = whole_numbers(150, 1), whole_numbers(140, 2) + torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])
    found = ours(images, real, block)
    groups = contiguous(150, 5)
    expected = [theirs(images[groups != group], real, 1000) for group in range(5)]
    assert len(set(expected)) == 5, "the example must depend on the group"
    assert (found.precision, found.recall) == theirs(images, real, 1000)
    assert found.precisions == pytest.approx([value[0] for value in expected], rel=1e-6)
    assert found.recalls == pytest.approx([value[1] for value in expected], rel=1e-6)


def test_replicates_of_groups_of_two() -> None:
    images, real = whole_numbers(40, 1), whole_numbers(60, 2) + 0.5
    found = ours(images, real, 16, num_groups=20)
    groups = contiguous(40, 20)
    expected = [theirs(images[groups != group], real, 1000) for group in range(20)]
    assert found.recalls == pytest.approx([value[1] for value in expected], rel=1e-6)
    assert len(set(found.recalls)) > 1


@pytest.mark.parametrize("block", [7, 100])
def test_nearest_of_each_group_are_sorted_and_padded(block: int) -> None:
    features = whole_numbers(30, 4)
    groups = torch.tensor([0, 2, 1] * 9 + [2, 2, 3])  # not contiguous; group 3 has one image
    found = nearest_by_group(features, groups, 4, 4, block)
    for row in range(30):
        for group in range(4):
            distances = (features[row] - features[groups == group]).double().norm(dim=1).sort().values[:4]
            expected = distances.tolist() + [float("inf")] * (4 - len(distances))
            assert found[row, group].tolist() == pytest.approx(expected, rel=1e-6)


MEMORY = """
import resource, torch
from erk_bench.evaluation import distances, kernels, neighbours, sliced
torch.set_num_threads(1)
make = torch.Generator().manual_seed(0)
x, y = (torch.randn({count}, 16, generator=make) for _ in range(2))
groups = torch.arange({count}) * 50 // {count}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{call}
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "megabytes"),
    [
        ("neighbours.precision_recall_without_groups(x, y, groups, 50, 3)", 1000),
        ("neighbours.precision_recall_without_groups(x, y, groups, 50, 5, 5000, distances.PRDC)", 700),
        ("neighbours.precision_recall_without_groups(x, y, groups, 50, 3, rule=distances.ADM)", 1300),
        ("kernels.unbiased_kernel_distances(x, y, groups, 50)", 600),
        ("sliced.sliced_without_groups(x, y, groups, 50, 200)", 300),
    ],
)
def test_memory_stays_below_a_whole_matrix(call: str, megabytes: float) -> None:
    """A matrix of 20,000 x 20,000 takes 1,600 MB in float32, 3,200 MB in float64."""
    program = MEMORY.format(count=20_000, call=call)
    # Freed blocks go back to the system at once, so that what is counted is what was in use together.
    settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < megabytes
