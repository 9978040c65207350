"""The Frechet distance against golden values, torch-fidelity, SciPy and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

import erk_bench
from erk_bench.base.errors import UserError
from erk_bench.evaluation import frechet
from erk_bench.evaluation.frechet import (
    FeatureStats,
    FeatureSums,
    FrechetTarget,
    distances_without_groups,
    frechet_distance,
    nested_subsets,
)
from tests.conftest import golden, golden_facts

FULL_RANK = ("d16", "d64")
RANK_DEFICIENT = ("d64_rank_deficient", "d16_rank_deficient_vs_full")
CASES = (*FULL_RANK, *RANK_DEFICIENT)


def golden_statistics(case: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors = golden("frechet")
    return (
        tensors[f"{case}.mu1"],
        tensors[f"{case}.sigma1"],
        tensors[f"{case}.mu2"],
        tensors[f"{case}.sigma2"],
    )


def near(expected: float, case: str) -> object:
    """Singular covariances leave rounding of the size of a square root, in every method."""
    if case in FULL_RANK:
        return pytest.approx(expected, rel=1e-9)
    return pytest.approx(expected, rel=0, abs=3e-6)


def random_stats(seed: int, dim: int, spread: float = 1.0) -> FeatureStats:
    """Mean and full-rank covariance of correlated features."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    features = torch.randn(5 * dim + 10, dim, generator=generator, dtype=torch.float64) @ mix * spread
    return FeatureSums.of(features + torch.randn(dim, generator=generator, dtype=torch.float64)).stats()


def distance(a: FeatureStats, b: FeatureStats) -> float:
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("side", [1, 2])
def test_statistics_equal_golden(case: str, side: int) -> None:
    tensors = golden("frechet")
    stats = FeatureSums.of(tensors[f"{case}.features{side}"]).stats()
    mean, covariance = tensors[f"{case}.mu{side}"], tensors[f"{case}.sigma{side}"]
    assert stats.mean.dtype == stats.covariance.dtype == torch.float64
    assert (stats.mean - mean).abs().max() <= 1e-12 * mean.abs().max()
    assert (stats.covariance - covariance).abs().max() <= 1e-12 * covariance.abs().max()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "source", ["edm2_distance", "torch_fidelity_distance_same_statistics", "reference_50_digits"]
)
def test_distance_equals_golden(case: str, source: str) -> None:
    expected = golden_facts("frechet")["cases"][case][source]
    assert frechet_distance(*golden_statistics(case)) == near(expected, case)


@pytest.mark.parametrize("case", CASES)
def test_distance_of_features_equals_golden(case: str) -> None:
    tensors = golden("frechet")
    stats = [FeatureSums.of(tensors[f"{case}.features{side}"]).stats() for side in (1, 2)]
    expected = golden_facts("frechet")["cases"][case]["reference_50_digits"]
    assert distance(*stats) == near(expected, case)


@pytest.mark.parametrize("case", CASES)
def test_distance_equals_torch_fidelity(case: str) -> None:
    mu1, sigma1, mu2, sigma2 = (value.numpy() for value in golden_statistics(case))
    theirs = fid_statistics_to_metric({"mu": mu1, "sigma": sigma1}, {"mu": mu2, "sigma": sigma2}, False)
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == near(theirs[KEY_METRIC_FID], case)


@pytest.mark.parametrize("case", FULL_RANK)
def test_distance_equals_scipy_sqrtm_at_every_scale(case: str) -> None:
    mu1, sigma1, mu2, sigma2 = (value.numpy() for value in golden_statistics(case))
    root = np.trace(scipy.linalg.sqrtm(sigma1 @ sigma2).real)
    expected = ((mu1 - mu2) ** 2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * root
    for scale in (1e-3, 1.0, 1e3):  # features times s: distance times s^2
        found = frechet_distance(scale * mu1, scale**2 * sigma1, scale * mu2, scale**2 * sigma2)
        assert found == pytest.approx(scale**2 * expected, rel=1e-9)


def test_distance_of_one_dimension_is_closed_form() -> None:
    # (m1 - m2)^2 + (s1 - s2)^2 for standard deviations s1, s2
    assert frechet_distance([1.0], [[4.0]], [3.0], [[9.0]]) == pytest.approx(4 + 1, rel=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_equal_statistics_have_no_distance(case: str) -> None:
    mu, sigma, _, _ = golden_statistics(case)
    assert abs(frechet_distance(mu, sigma, mu, sigma)) <= 1e-6 * float(sigma.trace())
    if case in FULL_RANK:
        assert abs(frechet_distance(mu, sigma, mu, sigma)) <= 1e-12 * float(sigma.trace())


def test_equal_covariances_leave_the_squared_mean_gap() -> None:
    mu1, sigma, mu2, _ = golden_statistics("d64")
    expected = float((mu1 - mu2).square().sum())
    assert frechet_distance(mu1, sigma, mu2, sigma) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_distance_is_symmetric(case: str) -> None:
    mu1, sigma1, mu2, sigma2 = golden_statistics(case)
    back = frechet_distance(mu2, sigma2, mu1, sigma1)
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == near(back, case)


def test_arrays_lists_and_tensors_give_the_same() -> None:
    mu1, sigma1, mu2, sigma2 = golden_statistics("d16")
    expected = frechet_distance(mu1, sigma1, mu2, sigma2)
    assert frechet_distance(mu1.numpy(), sigma1, mu2.numpy(), sigma2.numpy()) == expected
    assert frechet_distance(mu1.tolist(), sigma1.tolist(), mu2.tolist(), sigma2.tolist()) == expected
    assert erk_bench.frechet_distance(mu1, sigma1, mu2, sigma2) == expected


def test_float32_statistics_are_widened() -> None:
    narrow = [value.float() for value in golden_statistics("d16")]
    assert frechet_distance(*narrow) == frechet_distance(*(value.double() for value in narrow))


def test_merged_blocks_equal_numpy_cov() -> None:
    features = golden("frechet")["d64.features1"]
    blocks = [FeatureSums.of(part) for part in features.split(37)]
    merged = sum(blocks[1:], blocks[0])
    stats = merged.stats()
    wide = features.double().numpy()
    assert merged.count == len(features)
    assert np.abs(stats.mean.numpy() - wide.mean(axis=0)).max() <= 1e-12
    covariance = np.cov(wide, rowvar=False)
    assert np.abs(stats.covariance.numpy() - covariance).max() <= 1e-12 * np.abs(covariance).max()


def test_subtracted_sums_equal_sums_of_the_rest() -> None:
    features = golden("frechet")["d64.features1"]
    rest = FeatureSums.of(features) - FeatureSums.of(features[100:160])
    expected = FeatureSums.of(torch.cat([features[:100], features[160:]]))
    assert rest.count == expected.count == len(features) - 60
    assert (rest.total - expected.total).abs().max() <= 1e-12 * expected.total.abs().max()
    assert (rest.outer - expected.outer).abs().max() <= 1e-12 * expected.outer.abs().max()


def test_sums_widen_a_part_of_the_features_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    features = golden("frechet")["d64.features1"]
    whole = FeatureSums.of(features)
    monkeypatch.setattr(frechet, "ROWS", 37)
    monkeypatch.setattr(frechet, "WIDENED", 0)
    parts = FeatureSums.of(features)
    assert parts.count == whole.count
    assert (parts.total - whole.total).abs().max() <= 1e-12 * whole.total.abs().max()
    assert (parts.outer - whole.outer).abs().max() <= 1e-12 * whole.outer.abs().max()


# Many distances to one target


def brute_distances(features: Tensor, groups: Tensor, target: FeatureStats) -> list[float]:
    """Of all features, then without each group, from NumPy's statistics."""
    found = []
    for group in range(-1, int(groups.max()) + 1):
        kept = features[groups != group].double().numpy()
        found.append(
            frechet_distance(kept.mean(0), np.cov(kept, rowvar=False), target.mean, target.covariance)
        )
    return found


def draw(count: int, dim: int, seed: int, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=torch.Generator().manual_seed(dim)) / dim**0.5
    return torch.randn(count, dim, generator=generator) @ mix + offset


@pytest.mark.parametrize("count", [100, 33, 32, 31, 12])
@pytest.mark.parametrize("num_real", [200, 20])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_distances_without_groups_equal_brute_force(count: int, num_real: int, offset: float) -> None:
    """Above, at and below 32 dimensions, to a target of full rank and to a singular one."""
    features = draw(count, 32, seed=1, offset=offset)
    target = FeatureSums.of(draw(num_real, 32, seed=2, offset=offset + 0.1)).stats()
    groups = torch.arange(count) * 4 // count
    value, replicates = distances_without_groups(features, groups, 4, FrechetTarget(target))
    expected = brute_distances(features, groups, target)
    full_rank = count == 100 and num_real == 200
    near = {"rel": 1e-9} if full_rank and not offset else {"rel": 0, "abs": 3e-6}
    assert [value, *replicates] == pytest.approx(expected, **near)


@pytest.mark.parametrize("count", [10, 40])
def test_a_group_without_images_leaves_the_distance(count: int) -> None:
    target = FrechetTarget(FeatureSums.of(draw(60, 16, seed=2)).stats())
    groups = torch.arange(count) % 3
    value, replicates = distances_without_groups(draw(count, 16, seed=1), groups, 4, target)
    assert replicates[3] == pytest.approx(value, rel=1e-12)
    assert len(set(replicates)) == 4


@pytest.mark.parametrize("count", [40, 16])
def test_target_is_factored_once(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    calls = []
    cholesky = frechet.lapack.dpotrf
    monkeypatch.setattr(
        frechet.lapack, "dpotrf", lambda *words, **named: calls.append(1) or cholesky(*words, **named)
    )
    target = FrechetTarget(FeatureSums.of(draw(60, 16, seed=2)).stats())
    distances_without_groups(draw(count, 16, seed=1), torch.arange(count) % 4, 4, target)
    assert len(calls) == 1


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the eigenvalue problems solved since."""
    found: list[int] = []
    eigenvalues = frechet._eigenvalues
    monkeypatch.setattr(frechet, "_eigenvalues", lambda value: found.append(len(value)) or eigenvalues(value))
    return found


def test_singular_statistics_take_an_eigenvalue_problem_of_their_rank(sizes: list[int]) -> None:
    few, many = (FeatureSums.of(draw(count, 64, seed=count)).stats() for count in (20, 200))
    there, back = distance(many, few), distance(few, many)
    assert sizes == [19, 64]
    assert there == pytest.approx(back, abs=3e-6)


@pytest.mark.parametrize("count", [4, 9])
def test_constant_features_leave_the_gap_and_one_trace(count: int) -> None:
    """A covariance of zeros has no rank at all."""
    features = draw(count, 4, seed=1)
    whole = FeatureSums.of(features).stats()
    nothing = FrechetTarget(FeatureStats(torch.ones(4).double(), torch.zeros(4, 4).double()))
    value, _ = distances_without_groups(features, torch.arange(count) % 2, 2, nothing)
    expected = float((whole.mean - 1).square().sum() + whole.covariance.trace())
    assert value == pytest.approx(expected, rel=1e-12)
    value, _ = distances_without_groups(
        torch.ones(count, 4), torch.arange(count) % 2, 2, FrechetTarget(whole)
    )
    assert value == pytest.approx(expected, rel=1e-12)


def test_few_images_of_inception_size_take_a_small_eigenvalue_problem(sizes: list[int]) -> None:
    real = torch.randn(60, 2048, generator=torch.Generator().manual_seed(1))
    images = 1.1 * torch.randn(40, 2048, generator=torch.Generator().manual_seed(2))
    target = FrechetTarget(FeatureSums.of(real).stats())
    value, replicates = distances_without_groups(images, torch.arange(40) // 8, 5, target)
    assert sizes == [40, *[32] * 5]
    # tr (S1 S2)^(1/2) is the sum of the singular values of X1 X2^T for centred and scaled X1, X2.
    for found, rows in ((value, images), (replicates[0], images[8:])):
        one, two = (each.double() - each.double().mean(0) for each in (rows, real))
        one, two = one / (len(one) - 1) ** 0.5, two / (len(two) - 1) ** 0.5
        gap = (rows.double().mean(0) - real.double().mean(0)).square().sum()
        roots = torch.linalg.svdvals(one @ two.T).sum()
        expected = float(gap + one.square().sum() + two.square().sum() - 2 * roots)
        assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["mean", "covariance"])
def test_target_that_is_not_finite_is_refused(name: str) -> None:
    stats = random_stats(0, 4)
    getattr(stats, name).view(-1)[1] = float("nan")
    with pytest.raises(UserError, match=f"reference's {name} holds values that are not finite"):
        FrechetTarget(stats)


def test_nested_subsets_are_prefixes_of_one_pinned_permutation() -> None:
    groups = torch.arange(1000) // 20
    subsets = nested_subsets(groups, 50)
    assert [len(subset) for subset in subsets] == [100, 325, 550, 775, 1000]
    for smaller, larger in itertools.pairwise(subsets):
        assert torch.equal(larger[: len(smaller)], smaller)
    assert subsets[-1].sort().values.tolist() == list(range(1000))
    assert subsets[0][:6].tolist() == [725, 986, 815, 656, 469, 76]  # records depend on it


def test_large_dimensions_give_what_small_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a product from SMALL dimensions on, two whole ones below."""
    a, b = random_stats(0, 40), random_stats(1, 40)
    below = frechet.FrechetTarget(b).distance(a)
    monkeypatch.setattr(frechet, "SMALL", 39)
    assert frechet.FrechetTarget(b).distance(a) == pytest.approx(below, rel=1e-12)


@pytest.mark.parametrize("size", [1, 5, 256, 600])
def test_statistics_are_symmetric_to_the_last_bit(size: int) -> None:
    """BLAS gives one half only; the other is copied in blocks of 256."""
    features = torch.randn(8, size, generator=torch.Generator().manual_seed(size))
    outer = FeatureSums.of(features).outer
    assert torch.equal(outer, outer.T)
    assert (outer - features.double().T @ features.double()).abs().max() < 1e-13 * 8


def test_different_sizes_are_refused_with_their_shapes() -> None:
    a, b = random_stats(0, 3), random_stats(1, 4)
    with pytest.raises(UserError, match=r"\(3,\), \(3, 3\), \(4,\), \(4, 4\).*same detector"):
        distance(a, b)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (3,), (1, 3, 3)])
def test_covariance_that_is_not_square_is_refused(shape: tuple[int, ...]) -> None:
    bad = torch.ones(shape)
    with pytest.raises(UserError, match="different size"):
        frechet_distance(torch.zeros(3), bad, torch.zeros(3), bad)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(position: int, value: float) -> None:
    statistics = [golden.clone() for golden in golden_statistics("d16")]
    statistics[position].view(-1)[5] = value
    name = ("mu1", "sigma1", "mu2", "sigma2")[position]
    with pytest.raises(UserError, match=f"{name} holds values that are not finite"):
        frechet_distance(*statistics)


@pytest.mark.parametrize("count", [0, 1])
def test_covariance_needs_two_samples(count: int) -> None:
    with pytest.raises(UserError, match=f"{count} images.*at least 2 seeds"):
        FeatureSums.of(torch.zeros(count, 3)).stats()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20), dim=st.integers(1, 8), spread=st.floats(0.01, 100))
def test_distance_is_not_negative_and_keeps_under_rotation(seed: int, dim: int, spread: float) -> None:
    a, b = random_stats(seed, dim), random_stats(seed + 1, dim, spread)
    generator = torch.Generator().manual_seed(seed + 2)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q

    def rotated(stats: FeatureStats) -> FeatureStats:
        return FeatureStats(rotation @ stats.mean, rotation @ stats.covariance @ rotation.T)

    size = float(a.covariance.trace() + b.covariance.trace())
    found = distance(a, b)
    assert found >= -1e-10 * size
    assert abs(distance(a, a)) <= 1e-10 * size
    assert distance(rotated(a), rotated(b)) == pytest.approx(found, rel=1e-9, abs=1e-10 * size)
