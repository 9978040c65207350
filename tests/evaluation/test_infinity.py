"""The Frechet distance at infinity as published programs fit it, and the plain one that all of them print."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.evaluation import families
from erk_bench.evaluation.families import FAMILIES, chong_forsyth_infinity, dgm_infinity
from erk_bench.evaluation.frechet import (
    FeatureSums,
    FrechetTarget,
    distances_without_groups,
    infinity_without_groups,
)
from erk_bench.evaluation.infinity import chong_forsyth_subsets, dgm_infinity_subsets
from erk_bench.evaluation.measured import Extracted, split_groups
from erk_bench.evaluation.metrics import check_count
from erk_bench.evaluation.reference_files import Real
from erk_bench.spec import MetricsSpec
from tests.evaluation.golden_metrics import CASES, golden_sets, golden_values


def target_of(case: str) -> FrechetTarget:
    return FrechetTarget(FeatureSums.of(golden_sets(case)[1]).stats())


@pytest.mark.parametrize("case", CASES)
def test_the_frechet_distance_is_that_of_every_program(case: str) -> None:
    """ADM's evaluator, dgm-eval (its two ways) and diffusionbench-evals."""
    images, _ = golden_sets(case)
    found, _ = distances_without_groups(images, split_groups(len(images), 2), 2, target_of(case))
    of_dgm = golden_values(case)["dgm_eval"]
    printed = [of_dgm["fd"], of_dgm["fd_eff"], golden_values(case, "adm_evaluator")["fid"]]
    for value in [*printed, golden_values(case)["diffusionbench_frechet"]]:
        assert found == pytest.approx(value, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_infinity_equals_dgm_eval(case: str, seed: int) -> None:
    images, _ = golden_sets(case)
    printed = golden_values(case)["dgm_eval"][f"fd_infinity.default_rng_seed{seed}"]
    subsets = dgm_infinity_subsets(len(images), seed)
    assert [len(subset) for subset in subsets] == printed["nodes"]
    groups = split_groups(len(images), 2)
    found, _ = infinity_without_groups(images, groups, 2, target_of(case), subsets)
    assert found == pytest.approx(printed["value"], rel=1e-6)


@pytest.mark.parametrize(
    ("case", "which"),
    [(case, which) for case in CASES for which in golden_values(case).get("fid_infinity_chong_forsyth", ())],
)
@pytest.mark.slow
def test_infinity_equals_chong_and_forsyth(case: str, which: str) -> None:
    images, _ = golden_sets(case)
    printed = golden_values(case)["fid_infinity_chong_forsyth"][which]
    smallest, seed = (int(number) for number in re.findall(r"\d+", which))
    subsets = chong_forsyth_subsets(len(images), smallest, seed)
    assert [len(subset) for subset in subsets] == printed["nodes"]
    groups = split_groups(len(images), 2)
    found, _ = infinity_without_groups(images, groups, 2, target_of(case), subsets)
    assert found == pytest.approx(printed["value"], rel=1e-5)


def spec_of(name: str, num_groups: int = 5) -> MetricsSpec:
    return MetricsSpec(names=(f"{name}@digits",), reference="digits", num_groups=num_groups)


def random_sets(count: int) -> tuple[Extracted, Real]:
    make = torch.Generator().manual_seed(1)
    return Extracted(torch.randn(count, 3, generator=make) + 0.3), Real(
        None, torch.randn(200, 3, generator=make)
    )


def test_replicates_are_lines_through_what_is_left_of_every_set() -> None:
    images, real = random_sets(300)
    groups = split_groups(300, 5)
    found = dgm_infinity(images, real, groups, spec_of("fd_infinity_dgm"))["infinity"]
    assert real.features is not None
    target = FrechetTarget(FeatureSums.of(real.features).stats())
    subsets = dgm_infinity_subsets(300, 13579)
    for group in range(5):
        left = [subset[groups[subset] != group] for subset in subsets]
        distances = [target.distance(FeatureSums.of(images.features[each]).stats()) for each in left]
        _, intercept = np.polyfit([1 / len(each) for each in left], distances, 1)
        assert found.replicates[group] == pytest.approx(intercept, rel=1e-8)
    assert len(set(found.replicates)) == 5


def test_chong_and_forsyth_start_at_5000_images_and_seed_0() -> None:
    images, real = random_sets(5200)
    groups = split_groups(5200, 2)
    found = chong_forsyth_infinity(images, real, groups, spec_of("fd_infinity_cf", 2))["infinity"]
    subsets = chong_forsyth_subsets(5200, 5000, 0)
    assert [len(subset) for subset in subsets][:2] == [5000, 5014] and len(subsets[-1]) == 5200
    assert real.features is not None
    target = FrechetTarget(FeatureSums.of(real.features).stats())
    assert found.value == infinity_without_groups(images.features, groups, 2, target, subsets)[0]


def test_too_few_images_are_told_before_any_is_read() -> None:
    told = (
        "1000 images are too few for the Frechet distance at infinity of Chong and Forsyth, whose smallest "
        "set has 5000; use more seeds, at least 5001"
    )
    with pytest.raises(UserError, match=f"^{re.escape(told)}$"):
        check_count(spec_of("fd_infinity_cf"), 1000)
    with pytest.raises(UserError, match=re.escape(told)):
        images, real = random_sets(1000)
        chong_forsyth_infinity(images, real, split_groups(1000, 5), spec_of("fd_infinity_cf"))
    told = (
        "20 images are too few for dgm-eval's Frechet distance at infinity: of its smallest set of 2 images "
        "1 are left without some jackknife group, and 2 are needed; use more seeds, at least "
    )
    with pytest.raises(UserError, match=re.escape(told)) as error:
        check_count(spec_of("fd_infinity_dgm"), 20)
    enough = re.search("at least ([0-9]+)", str(error.value))
    assert enough is not None
    check_count(spec_of("fd_infinity_dgm"), int(enough.group(1)))
    assert FAMILIES["fd_infinity_cf"].compute is families.chong_forsyth_infinity
