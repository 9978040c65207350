"""Precision, recall, density and coverage against prdc, dgm-eval and ADM's evaluator."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation import needs
from erk_bench.evaluation.distances import ADM, FIDELITY, PRDC, Rule, squares_in_float16
from erk_bench.evaluation.families import FAMILIES
from erk_bench.evaluation.measured import Extracted, split_groups
from erk_bench.evaluation.neighbours import nearest_by_group, precision_recall_without_groups
from erk_bench.evaluation.prdc import adm_precision_recall, dgm_prdc, prdc
from erk_bench.evaluation.reference_files import Real
from erk_bench.spec import MetricsSpec
from tests.conftest import golden
from tests.evaluation.golden_metrics import CASES, golden_sets, golden_values

PARTS = ("precision", "recall", "density", "coverage")


def spec_of(num_groups: int = 5) -> MetricsSpec:
    return MetricsSpec(names=("density@digits",), reference="digits", num_groups=num_groups)


def random_sets(count: int = 83, count_real: int = 70, dim: int = 6) -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(4)
    images = 0.9 * torch.randn(count, dim, generator=make) + 0.2
    return images, torch.randn(count_real, dim, generator=make)


def whole_numbers() -> tuple[Tensor, Tensor]:
    """Coarse features: many images are equal, many distances tie, and all are exact in every number type."""
    make = torch.Generator().manual_seed(5)
    images = torch.randint(0, 3, (80, 5), generator=make).float()
    real = torch.randint(0, 3, (70, 5), generator=make) + torch.tensor([0, 0, 0, 1, 1])
    return images, real.float()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("neighborhood", [3, 5, 10])
def test_values_equal_prdc_and_dgm_eval(case: str, neighborhood: int) -> None:
    """As printed, and as the installed package computes them now."""
    images, real = golden_sets(case)
    expected = golden_values(case)["prdc"]
    groups = split_groups(len(images), 2)
    found = precision_recall_without_groups(images, real, groups, 2, neighborhood, rule=PRDC)
    few = 3 / min(len(images), len(real)) if case == "duplicates" else 1e-12
    for printed in [f"k{neighborhood}"] + ["dgm_eval_k5", "k5_float64_input"] * (neighborhood == 5):
        for part in PARTS:
            assert getattr(found, part) == pytest.approx(expected[printed][part], abs=few)
    if neighborhood == 5:
        now = compute_prdc(real.numpy(), images.numpy(), neighborhood)
        assert [getattr(found, part) for part in PARTS] == pytest.approx(
            [now[part] for part in PARTS], abs=few
        )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("index", "neighborhood"), [(0, 1), (1, 3), (2, 5)])
def test_values_are_those_of_the_adm_evaluator(case: str, index: int, neighborhood: int) -> None:
    """Float16 sums depend on the library: two images in 400 differ at most."""
    images, real = golden_sets(case)
    expected = golden_values(case, "adm_evaluator")
    groups = split_groups(len(images), 2)
    found = precision_recall_without_groups(images, real, groups, 2, neighborhood, rule=ADM)
    for part in ("precision", "recall"):
        assert getattr(found, part) == pytest.approx(expected["nhood_1_3_5"][part][index], abs=0.0051)
    assert squares_in_float16(images, real).isfinite().all()
    overflows = not images.half().float().square().sum(1).half().isfinite().all()
    assert overflows != expected["half_precision_distances_finite"]


def test_radii_are_those_of_the_adm_evaluator() -> None:
    """In float16, and in float32 where half precision overflows."""
    for case, relative in (("shifted", 3e-3), ("large", 1e-5)):
        for features, side in zip(golden_sets(case), ("gen", "real"), strict=True):
            alone = torch.zeros(len(features), dtype=torch.int64)
            radii = nearest_by_group(features, alone, 1, 6, rule=ADM)[:, 0]
            expected = golden("adm_evaluator")[f"{case}.radii_{side}_1_3_5"]
            torch.testing.assert_close(radii[:, [1, 3, 5]], expected, rtol=relative, atol=0)


def test_a_block_that_overflows_half_precision_is_of_float32_as_a_whole() -> None:
    near, far = torch.zeros(2, 3), torch.full((1, 3), 300.0)
    near[1] = 2049 / 2048  # float16 keeps 11 bits: 1.0 or 1.001
    assert squares_in_float16(near[:1], near)[0, 1] != pytest.approx(3 * (2049 / 2048) ** 2, rel=1e-6)
    mixed = squares_in_float16(near[:1], torch.cat([near, far]))
    assert mixed[0].tolist() == pytest.approx([0, 3 * (2049 / 2048) ** 2, 270_000], rel=1e-6)


@pytest.mark.parametrize("rule", [PRDC, ADM, FIDELITY], ids=["prdc", "adm", "fidelity"])
@pytest.mark.parametrize("block", [16, 1000])
@pytest.mark.parametrize("make", [random_sets, whole_numbers])
def test_replicates_are_the_values_of_what_is_left(rule: Rule, block: int, make: object) -> None:
    images, real = make()  # type: ignore[operator]
    if make is random_sets and rule is ADM:
        block = 1000  # which blocks overflow does not depend on the groups here, but their shape may matter
    groups = split_groups(len(images), 5)
    found = precision_recall_without_groups(images, real, groups, 5, 3, block, rule)
    whole = [
        precision_recall_without_groups(
            images[groups != group], real, groups[groups != group], 5, 3, 1000, rule
        )
        for group in range(5)
    ]
    pairs = zip(PARTS, ("precisions", "recalls", "densities", "coverages"), strict=True)
    for part, parts in pairs:
        expected = [getattr(each, part) for each in whole]
        assert getattr(found, parts) == pytest.approx(expected, abs=1e-6)
        assert len(set(expected)) > 1, "the example must depend on the group"


@pytest.mark.parametrize("block", [16, 1000])
def test_replicates_equal_the_package_without_the_group(block: int) -> None:
    images, real = random_sets()
    groups = split_groups(len(images), 5)
    found = precision_recall_without_groups(images, real, groups, 5, 5, block, PRDC)
    for group in range(5):
        expected = compute_prdc(real.numpy(), images[groups != group].numpy(), 5)
        assert found.precisions[group] == pytest.approx(expected["precision"], abs=1e-12)
        assert found.recalls[group] == pytest.approx(expected["recall"], abs=1e-12)
        assert found.densities[group] == pytest.approx(expected["density"], abs=1e-12)
        assert found.coverages[group] == pytest.approx(expected["coverage"], abs=1e-12)


def test_a_point_on_the_edge_is_outside_for_prdc_and_inside_for_adm() -> None:
    """Points on a line at 0, 1, ..., 9: the third neighbour of an inner one is at distance 2."""
    real = torch.arange(10.0)[:, None]
    images = torch.full((10, 1), 10.0)  # at distance 2 of the one at 8
    groups = split_groups(10, 2)
    for rule, expected in ((PRDC, 1.0), (ADM, 2.0)):  # in the balls of 9 (radius 3) and, on its edge, of 8
        found = precision_recall_without_groups(images, real + 0.0, groups, 2, 3, rule=rule)
        assert found.density * 3 == expected


def test_families_take_their_part_and_k() -> None:
    images, real = random_sets()
    groups = split_groups(len(images), 5)
    whole = compute_prdc(real.numpy(), images.numpy(), 5)
    for name, part in (("precision_prdc", 0), ("recall_prdc", 1), ("density", 2), ("coverage", 3)):
        family = FAMILIES[name]
        found = family.compute(Extracted(images), Real(None, real), groups, spec_of())[family.part]
        assert found.value == pytest.approx(whole[PARTS[part]], abs=1e-12)
        assert len(found.replicates) == 5
    for name in ("precision_adm", "recall_adm"):
        family = FAMILIES[name]
        found = family.compute(Extracted(images), Real(None, real), groups, spec_of())[family.part]
        other = precision_recall_without_groups(images, real, groups, 5, 3, rule=ADM)
        assert found.value == getattr(other, family.part)


def test_dgm_eval_draws_as_many_of_both_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real images first, then the images; the error is that of the images drawn."""
    monkeypatch.setattr(needs, "DGM_SUBSET", 40)
    images, real = random_sets()
    groups = split_groups(len(images), 5)
    random = np.random.RandomState(13579)
    kept_real = random.choice(70, 40, replace=False)
    kept = random.choice(83, 40, replace=False)
    expected = compute_prdc(real[kept_real].numpy(), images[kept].numpy(), 5)
    found = dgm_prdc(Extracted(images), Real(None, real), groups, spec_of())
    for part in PARTS:
        assert found[part].value == pytest.approx(expected[part], abs=1e-12)
    for group in range(5):
        rest = images[kept[groups[kept].numpy() != group]]
        expected = compute_prdc(real[kept_real].numpy(), rest.numpy(), 5)
        for part in PARTS:
            assert found[part].replicates[group] == pytest.approx(expected[part], abs=1e-12)


def test_of_small_sets_dgm_eval_draws_all_of_the_smaller() -> None:
    images, real = random_sets(60, 60)
    groups = split_groups(60, 5)
    found = dgm_prdc(Extracted(images), Real(None, real), groups, spec_of())
    assert found == prdc(Extracted(images), Real(None, real), groups, spec_of())


@pytest.mark.parametrize(
    ("compute", "count", "count_real", "told"),
    [
        (prdc, 10, 70, "without a jackknife group 5 of 10 images are left, too few for recall with k = 5"),
        (prdc, 40, 5, "the reference has 5 images, too few for precision with k = 5, which needs 6"),
        (dgm_prdc, 40, 5, "the reference has 5 images, too few for precision with k = 5, which needs 6"),
        (dgm_prdc, 40, 6, "of 6 images are left, too few for recall with k = 5"),
        (adm_precision_recall, 6, 70, "without a jackknife group 3 of 6 images are left, too few for recall"),
        (adm_precision_recall, 40, 3, "the reference has 3 images, too few for precision with k = 3"),
    ],
)
def test_too_few_images(compute: object, count: int, count_real: int, told: str) -> None:
    spec = dataclasses.replace(spec_of(), num_groups=2)
    images, real = random_sets(count, count_real)
    with pytest.raises(UserError, match=re.escape(told)):
        compute(Extracted(images), Real(None, real), split_groups(count, 2), spec)  # type: ignore[operator]
