"""Random halves of the images: which they are, and recall and coverage of each beside computing it alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from erk_bench.evaluation import half_samples
from erk_bench.evaluation.distances import ADM, FIDELITY, PRDC, Rule
from erk_bench.evaluation.half_samples import NUM_HALVES, Closest, half_sample_error
from erk_bench.evaluation.half_samples import half_samples as halves_of
from erk_bench.evaluation.neighbours import Neighbourhoods, precision_recall_without_groups


def draw(count: int, seed: int, dim: int = 6) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def alone(images: Tensor, real: Tensor, neighborhood: int, rule: Rule = FIDELITY) -> Neighbourhoods:
    one = torch.zeros(len(images), dtype=torch.int64)
    return precision_recall_without_groups(images, real, one, 1, neighborhood, rule=rule)


@pytest.mark.parametrize("count", [8, 101])
def test_halves_are_halves_and_what_they_leave(count: int) -> None:
    halves = halves_of(count)
    assert halves.shape == (NUM_HALVES, count)
    first, second = halves.chunk(2)
    assert torch.equal(first, ~second)
    assert first.sum(1).tolist() == [count // 2] * (NUM_HALVES // 2)
    assert len({tuple(half) for half in first.tolist()}) > 20  # of 8 images there are 70


def test_halves_are_pinned() -> None:
    """Records of the same seeds are compared by them, whatever the version."""
    assert halves_of(1000)[0].nonzero().flatten()[:8].tolist() == [1, 2, 3, 5, 8, 9, 10, 11]


@pytest.mark.parametrize("rule", [FIDELITY, PRDC, ADM], ids=["fidelity", "prdc", "adm"])
@pytest.mark.parametrize(("count", "neighborhood", "block"), [(90, 3, 40), (151, 5, 1000)])
def test_values_of_halves_equal_those_computed_alone(
    rule: Rule, count: int, neighborhood: int, block: int
) -> None:
    images, real = draw(count, 1), 1.1 * draw(120, 2)
    groups = torch.arange(count) * 5 // count
    found = precision_recall_without_groups(images, real, groups, 5, neighborhood, block, rule)
    assert len(found.recalls_of_halves) == len(found.coverages_of_halves) == NUM_HALVES
    assert len(set(found.recalls_of_halves)) > 10 and len(set(found.coverages_of_halves)) > 10
    for half in range(0, NUM_HALVES, 9):
        expected = alone(images[halves_of(count)[half]], real, neighborhood, rule)
        assert found.recalls_of_halves[half] == pytest.approx(expected.recall, rel=1e-6)
        assert found.coverages_of_halves[half] == pytest.approx(expected.coverage, rel=1e-6)


def test_values_do_not_depend_on_the_real_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images, real = draw(60, 1), draw(70, 2)
    groups = torch.arange(60) // 6
    whole = precision_recall_without_groups(images, real, groups, 10, 3)
    monkeypatch.setattr(half_samples, "ROWS", 13)
    assert precision_recall_without_groups(images, real, groups, 10, 3, 32) == whole


@pytest.mark.parametrize(("count", "there"), [(7, False), (8, True)])
def test_too_few_images_for_a_radius_have_no_halves(count: int, there: bool) -> None:
    found = precision_recall_without_groups(draw(count, 1), draw(30, 2), torch.arange(count), count, 3)
    assert bool(found.recalls_of_halves) is bool(found.coverages_of_halves) is there


def test_radius_goes_to_the_nearest_members() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0], [20.0]])
    closest = Closest(5)
    distances = torch.cdist(points, points)
    for columns in (slice(0, 2), slice(2, 5)):
        closest.add(slice(0, 5), columns, distances[:, columns])
    members = torch.tensor([True, False, True, True, True])
    assert closest.radii(members, 2).tolist() == [3.0, -math.inf, 3.0, 4.0, 13.0]


def test_error_is_the_spread_of_the_halves() -> None:
    assert half_sample_error([1.0, 3.0, 1.0, 3.0]) == 1.0
    assert half_sample_error([2.0, 2.0]) == 0.0


def test_error_of_a_mean_is_the_textbook_one() -> None:
    """All halves of independent values: s / sqrt(n), here from 100 of them."""
    values = torch.randn(4000, generator=torch.Generator().manual_seed(3)).double()
    means = [float(values[half].mean()) for half in halves_of(4000)]
    assert half_sample_error(means) == pytest.approx(float(values.std()) / 4000**0.5, rel=0.15)
