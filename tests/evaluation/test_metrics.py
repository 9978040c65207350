"""Metrics against torch-fidelity, and their jackknife against brute force."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.commands.compose import run_spec
from erk_bench.evaluation import detectors, families, needs
from erk_bench.evaluation.class_scores import inception_score
from erk_bench.evaluation.composites import COMPOSITES
from erk_bench.evaluation.detectors import DETECTORS, STATE, detector_key, load_detector
from erk_bench.evaluation.extract import Extract
from erk_bench.evaluation.families import (
    FAMILIES,
    frechet,
    frechet_infinity,
    precision_recall,
)
from erk_bench.evaluation.frechet import FeatureStats, FeatureSums, frechet_distance
from erk_bench.evaluation.infinity import chong_forsyth_subsets
from erk_bench.evaluation.kernels import kernel_distance
from erk_bench.evaluation.measured import Extracted, jackknife_error, split_groups
from erk_bench.evaluation.metrics import (
    ALIASES,
    METRICS,
    check_count,
    check_real,
    detectors_of,
    measure,
    singles,
    solver_errors,
)
from erk_bench.evaluation.reference import digits_reference, load_real
from erk_bench.evaluation.reference_files import Real
from erk_bench.runs.blocks import Worker
from erk_bench.runs.generate import generate
from erk_bench.runs.score import score
from erk_bench.spec import MetricsSpec, RunSpec
from tests import fidelity

SEED = 2020  # torch-fidelity's own default
DIGITS = tuple(metric.name for metric in singles(list(METRICS)) if metric.detector == "digits")


def digits_extract() -> Extract:
    return load_detector("digits", Assets.from_environment(), "cpu")


def metrics_spec(num_groups: int = 6, kid_subsets: int = 5, kid_subset_size: int = 40) -> MetricsSpec:
    return MetricsSpec(
        names=DIGITS,
        reference="digits",
        num_groups=num_groups,
        kid_subsets=kid_subsets,
        kid_subset_size=kid_subset_size,
    )


def example(count: int, seed: int, shift: float = 0.0) -> Extracted:
    """Correlated features [count, 6] and logits [count, 10]."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(6, 6, generator=torch.Generator().manual_seed(99)) / 2
    features = torch.randn(count, 6, generator=generator) @ mix + shift
    return Extracted(features, 2 * torch.randn(count, 10, generator=generator))


def whole_numbers(count: int, seed: int) -> Extracted:
    """Features on a coarse grid: many are equal, many distances tie, and all are exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    return Extracted(torch.randint(0, 3, (count, 4), generator=generator).float(), torch.zeros(count, 10))


def real_of(extracted: Extracted) -> Real:
    """Real images whose features are known."""
    return Real(None, extracted.features)


def stats_of(extracted: Extracted) -> Real:
    """Real images of which the statistics alone are known, as published ones are."""
    return Real(FeatureSums.of(extracted.features).stats())


def without(images: Extracted, groups: Tensor, group: int) -> Extracted:
    return Extracted(*(value[groups != group] for value in images))


def unbiased_mmd(x: Tensor, y: Tensor) -> float:
    """The U-statistic of the cubic kernel over all pairs, written as in arXiv 1801.01401."""
    a, b = x.double().numpy(), y.double().numpy()

    def kernel(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return np.asarray((p @ q.T / p.shape[1] + 1) ** 3)

    def off_diagonal_mean(matrix: np.ndarray) -> float:
        return float(matrix[~np.eye(len(matrix), dtype=bool)].mean())

    return off_diagonal_mean(kernel(a, a)) + off_diagonal_mean(kernel(b, b)) - 2 * float(kernel(a, b).mean())


# The jackknife


def test_jackknife_of_a_mean_is_sigma_over_root_n() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=80)
    left_out = [float(np.delete(values, index).mean()) for index in range(80)]
    assert jackknife_error(left_out) == pytest.approx(values.std(ddof=1) / math.sqrt(80), rel=1e-12)


def test_jackknife_over_groups_of_a_mean_is_that_of_the_group_means() -> None:
    values = np.random.default_rng(1).normal(size=(8, 10))
    left_out = [float(np.delete(values, group, axis=0).mean()) for group in range(8)]
    expected = values.mean(axis=1).std(ddof=1) / math.sqrt(8)
    assert jackknife_error(left_out) == pytest.approx(expected, rel=1e-12)


def test_jackknife_equals_its_definition() -> None:
    values = [0.3, -1.7, 2.2, 0.4, 5.0]
    mean = sum(values) / 5
    assert jackknife_error(values) == pytest.approx(
        math.sqrt(4 / 5 * sum((value - mean) ** 2 for value in values)), rel=1e-14
    )
    assert jackknife_error([0.5] * 7) == 0


@pytest.mark.parametrize(("count", "num_groups"), [(40, 5), (43, 5), (10, 5), (1000, 50)])
def test_groups_are_contiguous_and_of_nearly_equal_size(count: int, num_groups: int) -> None:
    groups = split_groups(count, num_groups)
    assert len(groups) == count
    assert (groups.diff() >= 0).all()
    sizes = groups.bincount(minlength=num_groups)
    assert len(sizes) == num_groups
    assert sizes.max() - sizes.min() <= 1


def test_standard_error_is_the_spread_over_repeats() -> None:
    """Over many draws of 200 images the mean jackknife error is the true spread of the Frechet distance."""
    real = real_of(example(4000, seed=1))
    spec = metrics_spec(num_groups=20)
    groups = split_groups(200, 20)
    measured = [
        frechet(example(200, seed, shift=0.3), real, groups, spec)["frechet"] for seed in range(10, 210)
    ]
    spread = float(np.std([item.value for item in measured], ddof=1))
    assert np.mean([item.standard_error for item in measured]) == pytest.approx(spread, rel=0.3)


# Leave-one-group-out values, by computing each metric again without the group


@pytest.mark.parametrize("count", [120, 125])
def test_frechet_replicates(count: int) -> None:
    images, real = example(count, 2, shift=0.2), example(150, 3)
    groups = split_groups(count, 6)
    found = frechet(images, real_of(real), groups, metrics_spec())["frechet"]
    assert frechet(images, stats_of(real), groups, metrics_spec())["frechet"] == found
    target = real.features.double().numpy()

    def brute(kept: Extracted) -> float:
        features = kept.features.double().numpy()
        return frechet_distance(
            features.mean(0), np.cov(features, rowvar=False), target.mean(0), np.cov(target, rowvar=False)
        )

    assert found.value == pytest.approx(brute(images), rel=1e-10)
    expected = [brute(without(images, groups, group)) for group in range(6)]
    assert found.replicates == pytest.approx(expected, rel=1e-10)


def check_precision_recall(images: Extracted, real: Extracted, num_groups: int) -> None:
    """Values and replicates equal torch-fidelity's, whose means are float32."""
    groups = split_groups(len(images.features), num_groups)
    found = precision_recall(images, real_of(real), groups, metrics_spec(num_groups))
    for name in ("precision", "recall"):
        whole = prc_features_to_metric(images.features, real.features, verbose=False)
        assert found[name].value == whole[name]
        expected = [
            prc_features_to_metric(without(images, groups, group).features, real.features, verbose=False)[
                name
            ]
            for group in range(num_groups)
        ]
        assert len(set(expected)) > 1, "the example must depend on the group"
        assert found[name].replicates == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("count", [120, 125])
def test_precision_recall_replicates(count: int) -> None:
    check_precision_recall(example(count, 2, shift=0.2), example(150, 3), num_groups=6)


def test_precision_recall_replicates_with_repeated_images_and_tied_distances() -> None:
    images, real = whole_numbers(90, 1), whole_numbers(200, 2)
    real = Extracted(real.features + torch.tensor([0.0, 0.0, 1.0, 2.0]), real.logits)
    assert len(images.features.unique(dim=0)) < 70
    check_precision_recall(images, real, num_groups=6)


def test_precision_recall_replicates_of_few_images() -> None:
    check_precision_recall(example(14, 2), example(30, 3), num_groups=7)


def test_recall_of_an_image_among_images_of_a_left_out_group() -> None:
    """Its kept neighbours are beyond the nearest that are looked at first."""
    generator = torch.Generator().manual_seed(4)
    features = torch.cat(
        [
            torch.zeros(1, 4),  # group 0, in the middle of group 1
            torch.randn(29, 4, generator=generator) + torch.tensor([8.0, 0.0, 0.0, 0.0]),
            torch.randn(30, 4, generator=generator) * 0.2,  # group 1
            torch.randn(30, 4, generator=generator) - torch.tensor([8.0, 0.0, 0.0, 0.0]),
        ]
    )
    images = Extracted(features, torch.zeros(90, 10))
    nearest = torch.cdist(features[:1], features).topk(20, largest=False).indices[0].tolist()
    assert sum(index == 0 or not 30 <= index < 60 for index in nearest) < 4
    # Real images that only the wide ball around image 0, without group 1, covers.
    real = Extracted(
        torch.cat([torch.randn(40, 4, generator=generator), torch.zeros(10, 4) + 2.5]), torch.zeros(50, 10)
    )
    check_precision_recall(images, real, num_groups=3)


@pytest.mark.parametrize("count", [120, 125])
def test_kid_replicates_are_of_the_unbiased_estimate_over_all_images(count: int) -> None:
    images, real = example(count, 2, shift=0.2), example(150, 3)
    groups = split_groups(count, 6)
    found = kernel_distance(images, real_of(real), groups, metrics_spec())["kid"]
    expected = [unbiased_mmd(without(images, groups, group).features, real.features) for group in range(6)]
    assert found.replicates == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_kid_of_subsets_as_large_as_the_sets_is_the_unbiased_estimate() -> None:
    images, real = example(80, 2, shift=0.2), example(80, 3)
    spec = metrics_spec(kid_subset_size=80)
    found = kernel_distance(images, real_of(real), split_groups(80, 6), spec)["kid"]
    assert found.value == pytest.approx(unbiased_mmd(images.features, real.features), rel=1e-4)


@pytest.mark.parametrize("count", [120, 125])
def test_inception_score_replicates_keep_every_image_in_its_split(count: int) -> None:
    images = example(count, 2)
    groups = split_groups(count, 6)
    found = inception_score(images, None, groups, metrics_spec())["inception_score"]
    order = np.random.RandomState(SEED).permutation(count)

    def brute(group: int | None) -> float:
        scores = []
        for split in range(10):
            members = order[split * count // 10 : (split + 1) * count // 10]
            kept = [index for index in members if group is None or groups[index] != group]
            p = images.logits[kept].double().softmax(1)
            kl = (p * (p.log() - p.mean(0).log())).sum(1)
            scores.append(math.exp(kl.mean()))
        return sum(scores) / 10

    assert found.value == pytest.approx(brute(None), rel=1e-10)
    assert found.replicates == pytest.approx([brute(group) for group in range(6)], rel=1e-10)


def brute_infinity(features: np.ndarray, kept: np.ndarray, target: np.ndarray) -> float:
    """Intercept of distances over 1/N, of the kept images of every prefix of the permutation."""
    order = np.random.RandomState(2020).permutation(len(features))
    counts, distances = [], []
    for size in np.linspace(len(features) / 10, len(features), 5).round().astype(int):
        rows = features[[index for index in order[:size] if kept[index]]]
        counts.append(len(rows))
        distances.append(
            frechet_distance(
                rows.mean(0), np.cov(rows, rowvar=False), target.mean(0), np.cov(target, rowvar=False)
            )
        )
    assert len(set(counts)) == 5
    return float(np.polyfit(1 / np.array(counts), distances, 1)[1])


@pytest.mark.parametrize("count", [240, 247])
def test_frechet_infinity_is_the_intercept_over_nested_subsets(count: int) -> None:
    images, real = example(count, 2, shift=0.2), example(150, 3)
    groups = split_groups(count, 6)
    found = frechet_infinity(images, real_of(real), groups, metrics_spec())["infinity"]
    assert frechet_infinity(images, stats_of(real), groups, metrics_spec())["infinity"] == found
    features, target = images.features.double().numpy(), real.features.double().numpy()
    masks = [np.ones(count, dtype=bool), *(groups.numpy() != group for group in range(6))]
    value, *replicates = [brute_infinity(features, mask, target) for mask in masks]
    assert found.value == pytest.approx(value, rel=1e-9)
    assert found.replicates == pytest.approx(replicates, rel=1e-9)


def test_frechet_infinity_has_less_bias_and_an_honest_standard_error() -> None:
    """Images of the reference's own distribution: the true distance is zero, that of N images is not."""
    mix = (torch.randn(6, 6, generator=torch.Generator().manual_seed(99)) / 2).double()  # that of `example`
    real = Real(FeatureStats(torch.zeros(6, dtype=torch.float64), mix.T @ mix))
    spec = metrics_spec(num_groups=10)
    groups = split_groups(600, 10)
    images = [example(600, seed) for seed in range(10, 90)]
    plain = [frechet(each, real, groups, spec)["frechet"].value for each in images]
    found = [frechet_infinity(each, real, groups, spec)["infinity"] for each in images]
    values = [item.value for item in found]
    assert np.mean(plain) > 0.01
    assert abs(np.mean(values)) < 0.2 * np.mean(plain)
    assert np.mean([item.standard_error for item in found]) == pytest.approx(np.std(values, ddof=1), rel=0.35)


# Values equal torch-fidelity's


def network_like(count: int, seed: int) -> Tensor:
    """Features [count, 64] as a network's last ReLU gives them: many exact zeros, float32."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(64, 64, generator=torch.Generator().manual_seed(7))
    return (torch.randn(count, 64, generator=generator) @ mix).relu() / 8


def test_imagenet_metrics_equal_torch_fidelity_functions() -> None:
    features, real = network_like(300, 1), network_like(280, 2) * 1.1
    logits = 3 * torch.randn(300, 1008, generator=torch.Generator().manual_seed(3))
    names = ("fid", "precision", "recall", "kid", "is")
    spec = MetricsSpec(names=names, reference="digits", num_groups=5, kid_subsets=6, kid_subset_size=100)
    found = measure(
        spec,
        {"inception": Extracted(features, logits), "vgg16": Extracted(features)},
        {"inception": Real(None, real), "vgg16": Real(None, real)},
    )
    precision = prc_features_to_metric(features, real, verbose=False)
    kid = kid_features_to_metric(features, real, kid_subsets=6, kid_subset_size=100, verbose=False)
    statistics = [fid_features_to_statistics(each.double()) for each in (features, real)]
    theirs = {
        "fid": fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"],
        "precision": precision["precision"],
        "recall": precision["recall"],
        "kid": kid["kernel_inception_distance_mean"],
        "is": isc_features_to_metric(logits)["inception_score_mean"],
    }
    for name in names:
        assert found[name].value == pytest.approx(theirs[name], rel=1e-6), name
    assert 0.05 < found["precision"].value < 0.95
    assert 0.05 < found["recall"].value < 0.95


def test_values_equal_torch_fidelity_functions() -> None:
    images, real = example(200, 2, shift=0.2), example(150, 3)
    spec = metrics_spec(kid_subsets=7, kid_subset_size=60)
    found = measure(spec, {"digits": images}, {"digits": real_of(real)})
    precision = prc_features_to_metric(images.features, real.features, prc_neighborhood=3, verbose=False)
    kid = kid_features_to_metric(
        images.features, real.features, kid_subsets=7, kid_subset_size=60, rng_seed=SEED, verbose=False
    )
    statistics = [fid_features_to_statistics(each.features.double()) for each in (images, real)]
    assert found["precision_digits"].value == precision["precision"]
    assert found["recall_digits"].value == precision["recall"]
    assert found["kid_digits"].value == kid["kernel_inception_distance_mean"]
    assert found["is_digits"].value == isc_features_to_metric(images.logits)["inception_score_mean"]
    assert found["fd_digits"].value == pytest.approx(
        fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"], rel=1e-10
    )


class ImageSet(Dataset[Tensor]):
    """uint8 NCHW images as torch-fidelity reads them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def perturbed_digits(count: int) -> Tensor:
    """Every third real digit with noise of 40 of 255, as a generator would miss them."""
    images = digits_reference()[::3][:count].float()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    return (images + 40 * noise).round().clip(0, 255).to(torch.uint8)


def test_torch_fidelity_with_the_registered_extractor_gives_the_same() -> None:
    images, real = perturbed_digits(500), digits_reference()
    extract = digits_extract()
    spec = metrics_spec(num_groups=10, kid_subsets=8, kid_subset_size=200)
    ours = measure(
        spec,
        {"digits": Extracted(**extract(images))},
        {"digits": real_of(Extracted(**extract(real)))},
    )
    fidelity.register()
    fidelity.register()  # twice does no harm
    theirs = torch_fidelity.calculate_metrics(
        input1=ImageSet(images),
        input2=ImageSet(real),
        feature_extractor="erk-bench-digits",
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=8,
        kid_subset_size=200,
        cuda=False,
        save_cpu_ram=True,  # no loader processes
        verbose=False,
    )
    for name, key in (
        ("is_digits", "inception_score_mean"),
        ("kid_digits", "kernel_inception_distance_mean"),
        ("precision_digits", "precision"),
        ("recall_digits", "recall"),
    ):
        assert ours[name].value == pytest.approx(theirs[key], rel=1e-6), name
    # torch-fidelity averages the float32 features in float32; we sum in float64.
    assert ours["fd_digits"].value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["fd_digits"].value > 0.1
    assert 0.1 < ours["precision_digits"].value < 1


def test_extractor_reads_gray_png_files_as_the_detector_reads_arrays(tmp_path: Path) -> None:
    images = digits_reference()[:70]
    for index, image in enumerate(images[:, 0].numpy()):
        Image.fromarray(image).save(tmp_path / f"{index:03d}.png")
    fidelity.register()
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path), feature_extractor="erk-bench-digits", isc=True,
        cuda=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    expected = isc_features_to_metric(digits_extract()(images)["logits"])
    assert theirs["inception_score_mean"] == pytest.approx(expected["inception_score_mean"], rel=1e-6)


def test_extractor_gives_the_layers_asked_for_in_their_order() -> None:
    images = digits_reference()[:9]
    expected = digits_extract()(images)
    for layers in (["64", "logits"], ["logits", "64"], ["logits"]):
        extractor = fidelity.DigitsFeatureExtractor("erk-bench-digits", layers)
        found = extractor.convert_features_tuple_to_dict(extractor(images))
        assert list(found) == layers
        for layer in layers:
            assert torch.equal(found[layer], expected["features" if layer == "64" else "logits"])
    assert extractor.get_name() == f"erk-bench-digits-{detector_key('digits', Assets.from_environment())}"


def test_extractor_refuses_what_it_cannot_measure() -> None:
    extractor = fidelity.DigitsFeatureExtractor("erk-bench-digits", ["64"])
    with pytest.raises(UserError, match=r"uint8 images .*got torch.float32 \[2, 1, 8, 8\]"):
        extractor(torch.zeros(2, 1, 8, 8))
    with pytest.raises(UserError, match=r"got torch.uint8 \[2, 1, 16, 16\]"):
        extractor(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))
    colored = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    colored[1, 2] = 7
    with pytest.raises(UserError, match="channels differ"):
        extractor(colored)
    with pytest.raises(UserError, match="unknown metric .*'ppl'"):
        extractor.get_default_feature_layer_for_metric("ppl")


# What a user can get wrong


@pytest.mark.parametrize("name", ["precision_digits", "recall_digits", "kid_digits"])
@pytest.mark.parametrize("given", [True, False])
def test_statistics_alone_are_refused_where_features_are_needed(name: str, given: bool) -> None:
    spec = MetricsSpec(names=("fd_digits", name), reference="digits", num_groups=4, kid_subset_size=40)
    real = {"digits": stats_of(example(150, 3))} if given else {}
    spec_alone = MetricsSpec(names=(name,), reference="digits", num_groups=4, kid_subset_size=40)
    with pytest.raises(
        UserError, match="holds statistics only; make features with 'erk-bench reference .*features=true'"
    ):
        measure(spec if given else spec_alone, {"digits": example(120, 2)}, real)


@pytest.mark.parametrize("name", ["fd_digits", "fd_infinity_digits"])
def test_frechet_without_any_reference_is_refused(name: str) -> None:
    spec = MetricsSpec(names=(name,), reference="digits", num_groups=4)
    for real in ({}, {"digits": Real(None)}):
        with pytest.raises(UserError, match="no statistics.*erk-bench reference"):
            measure(spec, {"digits": example(120, 2)}, real)


@pytest.mark.parametrize("name", ["fd_digits", "fd_infinity_digits", "precision_digits", "kid_digits"])
@pytest.mark.parametrize("kind", ["features", "statistics"])
def test_another_number_of_dimensions_is_refused(name: str, kind: str) -> None:
    spec = MetricsSpec(names=(name,), reference="digits", num_groups=4, kid_subset_size=40)
    other = Extracted(network_like(100, 1))
    real = real_of(other) if kind == "features" else stats_of(other)
    with pytest.raises(UserError, match="by detector 'digits' have 6 dimensions, those of the reference 64"):
        measure(spec, {"digits": example(120, 2)}, {"digits": real})


def test_statistics_that_are_not_finite_are_refused() -> None:
    real = stats_of(example(150, 3))
    assert real.stats is not None
    real.stats.mean[2] = float("nan")
    spec = MetricsSpec(names=("fd_digits",), reference="digits", num_groups=4)
    with pytest.raises(UserError, match="reference's mean holds values that are not finite"):
        measure(spec, {"digits": example(120, 2)}, {"digits": real})


def test_inception_score_needs_logits_and_no_real_images() -> None:
    spec = MetricsSpec(names=("is_digits",), reference="digits", num_groups=4)
    images = example(120, 2)
    assert len(measure(spec, {"digits": images}, {})["is_digits"].replicates) == 4
    with pytest.raises(UserError, match="needs class logits"):
        measure(spec, {"digits": Extracted(images.features)}, {})


@pytest.mark.parametrize(
    "name", [name for name in METRICS if name not in COMPOSITES and not solver_errors([name])]
)
def test_every_metric_needs_what_its_row_says(name: str) -> None:
    metric = METRICS.single(name)
    images, real = example(120, 2), example(150, 3)
    groups = split_groups(120, 4)
    least = {"nothing": None, "statistics": stats_of(real), "features": real_of(real)}
    row = metric.family
    found = row.compute(images, least[row.needs], groups, metrics_spec(4))
    assert len(found[row.part].replicates) == 4
    if row.needs != "nothing":
        lesser = None if row.needs == "statistics" else stats_of(real)
        with pytest.raises(UserError, match="erk-bench reference"):
            row.compute(images, lesser, groups, metrics_spec(4))


def test_too_few_images_for_frechet_infinity_are_refused_before_any_work() -> None:
    spec = MetricsSpec(names=("fd_infinity_digits",), reference="digits", num_groups=2)
    with pytest.raises(UserError, match="20 images are too few .*at infinity.*use more seeds"):
        check_count(spec, 20)
    check_count(spec, 100)


def test_kid_subsets_larger_than_the_images_are_refused_before_any_work() -> None:
    for name in ("kid_digits", "kid"):
        spec = MetricsSpec(names=(name,), reference="digits", num_groups=4, kid_subset_size=60)
        with pytest.raises(UserError, match=r"kid_subset_size is 60 .*50 images.*kid_subset_size=50"):
            check_count(spec, 50)
        check_count(spec, 60)


def test_too_few_real_images_for_precision() -> None:
    with pytest.raises(UserError, match="reference has 3 images, too few for precision"):
        precision_recall(example(40, 2), real_of(example(3, 3)), split_groups(40, 4), metrics_spec(4))


def test_too_few_images_for_the_groups() -> None:
    with pytest.raises(UserError, match=r"30 images are too few for 20 .*metrics\.num_groups=15"):
        split_groups(30, 20)
    assert len(split_groups(30, 15)) == 30


def test_too_few_images_for_recall() -> None:
    images = example(4, 2)
    with pytest.raises(UserError, match="too few for recall.*more seeds"):
        precision_recall(images, real_of(example(30, 3)), split_groups(4, 2), metrics_spec(2))


@pytest.mark.parametrize("count", [8, 20])
def test_too_few_images_for_the_splits_of_the_inception_score(count: int) -> None:
    images = example(count, 2)
    with pytest.raises(
        UserError, match=f"of {count} images one of the 10 splits .* use more seeds, at least"
    ):
        inception_score(images, None, split_groups(count, 2), metrics_spec(2))


def advised(told: str, spec: MetricsSpec, count: int) -> list[tuple[MetricsSpec, int]]:
    """What an error advises: other numbers of images, or other settings."""
    found = [(spec, int(number)) for number in re.findall(r"more seeds, at least (\d+)", told)]
    settings = {name: int(value) for name, value in re.findall(r"metrics\.(\w+)=(\d+)", told)}
    return found + ([(dataclasses.replace(spec, **settings), count)] if settings else [])


@pytest.mark.parametrize("num_groups", [2, 3, 7, 50])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 19, 21, 33, 99])
def test_what_an_error_advises_works(count: int, num_groups: int) -> None:
    """For every metric alone and all together; nothing is refused later than here."""
    for names in (*((name,) for name in DIGITS), DIGITS):
        spec = MetricsSpec(names=names, reference="digits", num_groups=num_groups, kid_subset_size=30)
        try:
            check_count(spec, count)
        except UserError as error:
            told = str(error)
            assert str(count) in told and "\n" not in told and told.count("num_groups=") <= 1
            advice = advised(told, spec, count)
            assert advice and any(number > count for _, number in advice)
            for better, number in advice:
                check_count(better, number)
        else:
            images = example(count, 2)
            real = {"digits": real_of(example(40, 3))}
            found = measure(spec, {"digits": images}, real)
            assert all(math.isfinite(x) for item in found.values() for x in (item.value, *item.replicates))


@pytest.mark.parametrize(
    ("name", "num_real", "told"),
    [
        (
            "kid_digits",
            20,
            "kid_subset_size is 30 but the reference has only 20 images; use metrics.kid_subs",
        ),
        ("kid_digits", 1, "the reference has only 1 images; use a reference of more images"),
        ("precision_digits", 3, "the reference has 3 images, too few for precision .* needs 4; use a refer"),
        ("recall_digits", 2, "the reference has 2 images"),
    ],
)
def test_too_few_real_images_are_told_before_sampling(name: str, num_real: int, told: str) -> None:
    spec = MetricsSpec(names=(name,), reference="digits", num_groups=4, kid_subset_size=30)
    real = {"digits": real_of(example(num_real, 3))}
    check_count(spec, 60)
    with pytest.raises(UserError, match=told) as caught:
        check_real(spec, 60, real)
    for better, number in advised(str(caught.value), spec, 60):
        check_real(better, number, real)
    check_real(spec, 60, {"digits": real_of(example(30, 3))})


@pytest.mark.parametrize("num_classes", [1, 2, 10])
@pytest.mark.parametrize("scale", [1e4, -1e4, 3e38])
def test_inception_score_where_probabilities_underflow(num_classes: int, scale: float) -> None:
    """One-hot logits: 0 log 0 is 0, and classes in equal parts give their number."""
    count = 400
    classes = torch.arange(count) % num_classes
    logits = torch.nn.functional.one_hot(classes, 10).float() * scale
    images = Extracted(torch.zeros(count, 4), logits)
    found = inception_score(images, None, split_groups(count, 5), metrics_spec(5))["inception_score"]
    assert all(map(math.isfinite, (found.value, *found.replicates)))
    if num_classes == 1:
        assert found.value == pytest.approx(1.0) and found.replicates == pytest.approx([1.0] * 5)
    elif scale > 0:
        assert 0.8 * num_classes < found.value <= num_classes + 1e-9
        assert all(0.8 * num_classes < x <= num_classes + 1e-9 for x in found.replicates)


@pytest.mark.parametrize(("count", "num_real"), [(50, 90), (90, 50)])
def test_kid_subsets_larger_than_a_set(count: int, num_real: int) -> None:
    images, real = example(count, 2), real_of(example(num_real, 3))
    with pytest.raises(UserError, match=r"kid_subset_size is 60 .*50 images.*metrics\.kid_subset_size=50"):
        kernel_distance(images, real, split_groups(count, 5), metrics_spec(5, 5, 60))
    assert kernel_distance(images, real, split_groups(count, 5), metrics_spec(5, 5, 50))


def test_unknown_metric_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown metric 'fd_digit'; did you mean 'fd_digits'"):
        detectors_of(["is_digits", "fd_digit"])


def test_every_metric_has_a_detector() -> None:
    """And every combination that has logits where it needs them is a metric, called by its familiar name."""
    assert set(detectors_of(list(METRICS))) <= {*DETECTORS, STATE}
    for family, detector in itertools.product(FAMILIES, DETECTORS):
        name = f"{family}@{detector}"
        if FAMILIES[family].logits and not DETECTORS[detector].num_logits:
            with pytest.raises(
                UserError,
                match=f"'{name}' needs class logits.*choose one of: digits, cifar16, cifar32, lite0, incep",
            ):
                METRICS[name]
            continue
        metric = METRICS[name]
        assert (metric.family, metric.detector) == (FAMILIES[family], detector)
        assert METRICS[metric.name] == metric and name in METRICS
        assert (metric.name == name) == (name not in [alias.of for alias in ALIASES.values()])
    assert METRICS["fd@inception"].name == "fid" and METRICS["fd@inception"].title == "FID"
    assert METRICS["recall@dinov2_torch"].title == "recall-DINOv2"


def test_a_row_for_a_family_and_one_for_a_detector_give_every_combination(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Through names, checks, extraction, real images and measuring."""
    row = dataclasses.replace(FAMILIES["fd"], title="FD2")
    monkeypatch.setitem(FAMILIES, "fd2", row)
    monkeypatch.setitem(DETECTORS, "digits2", DETECTORS["digits"]._replace(title="digits2"))
    monkeypatch.setattr(needs, "CF_SMALLEST", 60)  # of 5,000 images, which this test has not
    monkeypatch.setattr(families, "chong_forsyth_subsets", lambda count: chong_forsyth_subsets(count, 60))
    names = [f"{family}@digits2" for family in FAMILIES] + ["fd2@digits", "fd_digits"]
    names = [name for name in names if not solver_errors([name])]  # which need a run
    spec = run_spec(
        [
            f"metrics.names=[{','.join(names)}]",
            "seeds=0-119",
            "metrics.num_groups=4",
            "metrics.kid_subset_size=50",
        ]
    ).metrics
    assert spec.names == tuple(names)
    assets, images = Assets.from_environment(), digits_reference()[:120]
    detectors = detectors_of(spec.names)
    assert set(detectors) == {"digits", "digits2"}
    check_count(spec, 120)
    extracted = {name: Extracted(**load_detector(name, assets, "cpu")(images)) for name in detectors}
    found = measure(spec, extracted, load_real(spec, assets))
    assert set(found) == set(names) and found["fd2@digits2"] == found["fd_digits"]
    assert METRICS["fd2@digits2"].title == "FD2-digits2" and METRICS["fd2@inception"].detector == "inception"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fdd@inception", "did you mean 'fd@inception'"),
        ("fd@inceptoin", "did you mean 'fd@inception'"),
        ("precison@a/my.py:load", "did you mean 'precision@a/my.py:load'"),
        ("a/my.py:energy@digit", "did you mean 'a/my.py:energy@digits'"),
        ("fidd", "did you mean 'fid'? Known: fd_digits, "),
        ("fd@", "or FAMILY@DETECTOR, of the families fd, fd_infinity"),
        ("", "and the detectors digits, cifar16, cifar32, lite0, inception"),
        ("a/my.py:energy", "names no detector; write a/my.py:energy@DETECTOR"),
    ],
)
def test_a_name_that_is_no_metric(name: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        detectors_of([name])
    assert told in str(caught.value)


def test_one_metric_has_one_name_in_settings() -> None:
    def names(text: str) -> tuple[str, ...]:
        return run_spec([f"metrics.names=[{text}]"]).metrics.names

    assert names("fd@inception,recall@digits,fid") == ("fid", "recall_digits")
    assert names("precision@dinov2_torch") == ("precision@dinov2_torch",)


def test_measure_keeps_the_order_and_computes_only_what_is_named() -> None:
    images = {"digits": example(120, 2)}
    spec = MetricsSpec(names=("recall_digits", "fd_digits"), reference="digits", num_groups=4)
    found = measure(spec, images, {"digits": real_of(example(150, 3))})
    assert list(found) == ["recall_digits", "fd_digits"]
    assert all(len(item.replicates) == 4 for item in found.values())


def test_five_metrics_take_one_feature_pass(
    small_run: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: Counter[int] = Counter()
    network = detectors._network("digits", Assets.from_environment(), "cpu", None)

    def extract(images: Tensor) -> dict[str, Tensor]:
        passes[len(images)] += 1
        return network(images)

    monkeypatch.setattr(detectors, "_network", lambda name, assets, device, key: extract)
    spec = small_run()
    assert len(spec.metrics.names) == 5
    generate([[spec]], Worker(), lambda spec, count: None, features=True)
    record = score(spec)
    assert set(record.metrics) == set(spec.metrics.names)
    assert passes[8] == 5 and set(passes) <= {8, 1797}  # five blocks, once each; the real digits once
