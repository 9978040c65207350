"""MIND against torch-fidelity's numbers, and its leave-one-group-out values against brute force."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.measured import Extracted, split_groups
from erk_bench.evaluation.reference_files import Real
from erk_bench.evaluation.sliced import draws, mind, sliced_without_groups
from erk_bench.spec import MetricsSpec
from tests.conftest import golden_facts
from tests.evaluation.golden_metrics import CASES, golden_sets, golden_values


@pytest.mark.parametrize("case", CASES)
def test_values_equal_torch_fidelity(case: str) -> None:
    """In the order (images, real) and in the other: only the larger of the two sets is cut."""
    images, real = golden_sets(case)
    for num_directions, seed in ((1000, 2020), (100, 2020), (1000, 7)):
        expected = golden_values(case)["mind"][f"M{num_directions}.seed{seed}"]
        for first, second, order in ((images, real, "gen_first"), (real, images, "real_first")):
            groups = split_groups(len(first), 2)
            found, _ = sliced_without_groups(first, second, groups, 2, num_directions, seed)
            assert found == pytest.approx(expected[order], rel=2e-6, abs=1e-12)


@pytest.mark.parametrize("dim", [16, 64, 256])
def test_directions_equal_torch_fidelity(dim: int) -> None:
    expected = golden_facts("metrics")["mind_directions"][str(dim)]
    *_, directions = draws(40, 40, dim, 1000, 2020)
    assert directions[0, :4].tolist() == pytest.approx(expected["row0_first4"], abs=1e-7)
    assert directions[-1, -4:].tolist() == pytest.approx(expected["row999_last4"], abs=1e-7)


def squared_wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Of two empirical distributions on a line, each point repeated until both have as many."""
    count = math.lcm(len(x), len(y))
    a, b = (np.repeat(np.sort(each), count // len(each)) for each in (x, y))
    return float(((a - b) ** 2).mean())


@pytest.mark.parametrize(("count", "count_real"), [(36, 36), (38, 60), (50, 30)])
def test_replicates_are_distances_of_what_is_left(count: int, count_real: int) -> None:
    """Of equal sets, more real images, and more images, of which a group loses as many as were drawn."""
    make = torch.Generator().manual_seed(3)
    images = torch.randn(count, 5, generator=make) + 0.3
    real = torch.randn(count_real, 5, generator=make)
    groups = split_groups(count, 6)
    found, replicates = sliced_without_groups(images, real, groups, 6, num_directions=70, seed=1)
    kept, kept_real, directions = draws(count, count_real, 5, 70, 1)
    assert len(kept) == len(kept_real) == min(count, count_real) == len(set(kept.tolist()))

    def brute(rest: Tensor) -> float:
        x, y = ((features @ directions.T).double().numpy() for features in (images[rest], real[kept_real]))
        return 15 * float(np.mean([squared_wasserstein(x[:, i], y[:, i]) for i in range(70)]))

    assert found == pytest.approx(brute(kept), rel=1e-5)
    expected = [brute(kept[groups[kept] != group]) for group in range(6)]
    assert replicates == pytest.approx(expected, rel=1e-5)
    assert len(set(expected)) == 6


def test_equal_sets_are_at_no_distance_and_shifted_ones_at_the_shift() -> None:
    """3 D times the mean of (u . shift)^2 over unit u is 3 |shift|^2, but for the finite directions."""
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    groups = split_groups(200, 4)
    assert sliced_without_groups(features, features.clone(), groups, 4)[0] == 0
    shifted, _ = sliced_without_groups(features + torch.tensor([2.0, 0, 0, 0]), features, groups, 4)
    assert shifted == pytest.approx(12, rel=0.1)


def test_a_reference_within_one_jackknife_group_is_refused() -> None:
    spec = MetricsSpec(names=("mind@digits",), reference="digits", num_groups=2)
    features = torch.randn(40, 3)
    with pytest.raises(UserError, match=re.escape("the reference has 20 images, too few for MIND with")):
        mind(Extracted(features), Real(None, features[:20]), split_groups(40, 2), spec)
    found = mind(Extracted(features), Real(None, features[:21]), split_groups(40, 2), spec)["mind"]
    assert len(found.replicates) == 2
