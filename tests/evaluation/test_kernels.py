"""Kernel distances against dgm-eval, cmmd-pytorch and brute force."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from erk_bench.base.errors import UserError
from erk_bench.evaluation.kernels import (
    biased_kernel_distances,
    cmmd,
    dgm_kernel_distance,
    gaussian_kernel,
    gaussian_kernel_of_units,
    subset_distances,
    unbiased_kernel_distances,
)
from erk_bench.evaluation.measured import Extracted, split_groups
from erk_bench.evaluation.reference_files import Real
from erk_bench.spec import MetricsSpec
from tests.evaluation.golden_metrics import CASES, golden_sets, golden_values

SPEC = MetricsSpec(names=("kd@digits",), reference="digits", num_groups=6)


def random_features(count: int, seed: int, dim: int = 8) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", CASES)
def test_kd_equals_dgm_eval(case: str) -> None:
    """In its draws after numpy.random.seed(13579); the program computes in float32."""
    images, real = golden_sets(case)
    printed = golden_values(case)["dgm_eval"]
    near = {"far": 1e-2, "large": 1.0}.get(case, 1e-6)
    few = printed["kd.subsets10.size100.npseed13579"]
    found = subset_distances(images, real, 10, 100, 13579)
    assert found == pytest.approx(few["values"], abs=near)
    if case in ("large", "shifted", "duplicates"):  # 100 subsets, of all images of the smaller set at most
        spec = MetricsSpec(names=("kd@digits",), reference="digits", num_groups=2)
        groups = split_groups(len(images), 2)
        kd = dgm_kernel_distance(Extracted(images), Real(None, real), groups, spec)["kd"]
        assert kd.value == pytest.approx(printed["kd.subsets100.size1000.npseed13579"]["mean"], rel=5e-6)


def test_replicates_of_kd_are_of_all_images() -> None:
    images, real = random_features(90, 1), random_features(70, 2) + 0.3
    groups = split_groups(90, 6)
    found = dgm_kernel_distance(Extracted(images), Real(None, real), groups, SPEC)["kd"]
    assert list(found.replicates) == unbiased_kernel_distances(images, real, groups, 6)
    every_image = subset_distances(images[:70], real, 1, 1000)  # a subset of all is all
    whole = unbiased_kernel_distances(images[:70].repeat(2, 1), real, split_groups(140, 2), 2)
    assert every_image == pytest.approx(whole[:1], rel=1e-9)


def test_kd_needs_two_real_images() -> None:
    images = random_features(90, 1)
    with pytest.raises(UserError, match=re.escape("the reference has one image, and KD needs 2")):
        dgm_kernel_distance(Extracted(images), Real(None, images[:1]), split_groups(90, 6), SPEC)


@pytest.mark.parametrize("case", CASES)
def test_cmmd_equals_the_published_program(case: str) -> None:
    """In float64; the program's float32 has steps of 1.2e-4."""
    images, real = golden_sets(case)
    printed = golden_values(case)["cmmd"]
    groups = split_groups(len(images), 6)
    found = cmmd(Extracted(images), Real(None, real), groups, SPEC)["cmmd"]
    assert found.value == pytest.approx(printed["unit_rows_float64"], rel=1e-9, abs=1e-11)
    assert found.value == pytest.approx(printed["unit_rows"], abs=5e-4)
    raw, _ = biased_kernel_distances(images, real, groups, 6, gaussian_kernel)
    assert 1000 * raw == pytest.approx(printed["raw_float64"], rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("block", [7, 32, 1000])
def test_replicates_of_cmmd_are_the_values_of_what_is_left(block: int) -> None:
    x, y = random_features(50, 1), random_features(41, 2) + 0.2
    groups = split_groups(50, 6)
    whole, found = biased_kernel_distances(x, y, groups, 6, gaussian_kernel_of_units, block)

    def brute(*sets: Tensor) -> float:
        a, b = (normalize(each.double()).numpy() for each in sets)

        def mean(p: np.ndarray, q: np.ndarray) -> float:
            return float(np.exp(-((p[:, None] - q[None]) ** 2).sum(-1) / 200).mean())

        return mean(a, a) + mean(b, b) - 2 * mean(a, b)

    assert whole == pytest.approx(brute(x, y), rel=1e-9)
    expected = [brute(x[groups != group], y) for group in range(6)]
    assert found == pytest.approx(expected, rel=1e-9)
    assert len(set(expected)) == 6


@pytest.mark.parametrize("block", [7, 32, 1000])
def test_kernel_distances_equal_their_definition(block: int) -> None:
    x, y = random_features(90, 1), random_features(70, 2) + 0.1
    groups = split_groups(90, 6)
    found = unbiased_kernel_distances(x, y, groups, 6, block)
    b = y.double().numpy()

    def kernel(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return np.asarray((p @ q.T / 8 + 1) ** 3)

    def off_diagonal(p: np.ndarray) -> float:
        return float(kernel(p, p)[~np.eye(len(p), dtype=bool)].mean())

    for group, value in enumerate(found):
        a = x[groups != group].double().numpy()
        expected = off_diagonal(a) + off_diagonal(b) - 2 * float(kernel(a, b).mean())
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-13)
