"""Solver errors from distances: values, what is left out, which metrics there are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.evaluation.measured import split_groups
from erk_bench.evaluation.metrics import METRICS, detectors_of, measure, solver_errors
from erk_bench.evaluation.reference import load_real, reference_facts
from erk_bench.evaluation.solver_error import rms_distances
from erk_bench.spec import MetricsSpec

NAMES = ("solver_error", "solver_error_median", "solver_error_q90")
SPEC = MetricsSpec(names=NAMES, reference="nowhere.npz", num_groups=5)


def distances(count: int = 60) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_distance_is_the_root_mean_square_of_each_row() -> None:
    one, other = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0))
    wanted = [math.sqrt(math.fsum((float(a) - float(b)) ** 2 for a, b in zip(*pair, strict=True)) / 12)
              for pair in zip(one, other, strict=True)]  # fmt: skip
    assert rms_distances(one, other).tolist() == pytest.approx(wanted, rel=1e-12)
    assert rms_distances(one, one).tolist() == [0.0] * 7


def test_pixels_count_from_minus_one_to_one() -> None:
    black, white = torch.zeros(2, 5, dtype=torch.uint8), torch.full((2, 5), 255, dtype=torch.uint8)
    assert rms_distances(black, white).tolist() == [2.0, 2.0]
    assert rms_distances(white, black).tolist() == [2.0, 2.0]


def test_half_precision_is_widened_before_it_is_subtracted() -> None:
    big = torch.full((1, 4), 60_000.0, dtype=torch.float16)
    assert rms_distances(big, -big).tolist() == [120_000.0]


def test_rows_in_parts_are_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(0))
    whole = rms_distances(one, other)
    monkeypatch.setattr("erk_bench.evaluation.solver_error.WIDENED", 30)
    assert torch.equal(rms_distances(one, other), whole)


def test_mean_median_and_quantile_with_what_they_are_without_each_group() -> None:
    values = distances()
    found = measure(SPEC, {}, {}, distances={"state": values})
    groups = split_groups(60, 5).numpy()
    for name, of in zip(NAMES, (np.mean, np.median, lambda some: np.quantile(some, 0.9)), strict=True):
        assert found[name].value == pytest.approx(of(values.numpy()), rel=1e-12)
        without = [of(values.numpy()[groups != group]) for group in range(5)]
        assert found[name].replicates == pytest.approx(without, rel=1e-12)


def test_the_jackknife_error_of_a_mean_is_that_of_group_means() -> None:
    values = distances()
    means = values.reshape(5, 12).mean(1).numpy()
    found = measure(SPEC, {}, {}, distances={"state": values})["solver_error"]
    assert found.standard_error == pytest.approx(means.std(ddof=1) / math.sqrt(5), rel=1e-9)


@pytest.mark.parametrize("name", NAMES[1:])
def test_errors_of_quantiles_are_about_right(name: str) -> None:
    """Over 80 samples of 250 uniform numbers the mean error is the spread of the values, to a fourth."""
    spec = MetricsSpec(names=(name,), reference="-", num_groups=2)
    random = torch.Generator().manual_seed(1)
    found = [
        measure(spec, {}, {}, distances={"state": torch.rand(250, generator=random)})[name] for _ in range(80)
    ]
    spread = np.std([each.value for each in found])
    assert np.mean([each.standard_error for each in found]) == pytest.approx(spread, rel=0.25)


def test_names() -> None:
    assert METRICS["solver_error@state"].name == "solver_error"
    assert METRICS["solver_error_q90@pixels"].name == "solver_error_q90@pixels"
    titles = [METRICS[name].title for name in (*NAMES, "solver_error@pixels", "solver_error@digits")]
    assert len(set(titles)) == 5
    assert all(METRICS[name].lower for name in NAMES)
    names = ["solver_error", "fd_digits", "solver_error@inception", "solver_error_median@pixels"]
    assert solver_errors(names) == ["solver_error", "solver_error@inception", "solver_error_median@pixels"]
    assert detectors_of(names) == ["state", "digits", "inception", "pixels"]
    assert detectors_of(names, distances=False) == ["digits"]


@pytest.mark.parametrize("name", ["fd@state", "kid@pixels", "is@state", "precision@pixels"])
def test_other_families_are_not_measured_on_what_is_kept(name: str) -> None:
    with pytest.raises(UserError, match="only solver errors are measured"):
        METRICS[name]


def test_a_name_that_is_nearly_one() -> None:
    with pytest.raises(UserError, match="did you mean 'solver_error'"):
        METRICS["solver_eror"]
    with pytest.raises(UserError, match="did you mean 'solver_error@pixels'"):
        METRICS["solver_error@pixel"]


def test_no_reference_is_read() -> None:
    assets = Assets.from_environment(offline=True)
    assert load_real(SPEC, assets) == {}
    assert reference_facts(SPEC, assets) == {}
    both = MetricsSpec(names=("solver_error", "fd_digits"), reference="digits", num_groups=5)
    assert set(load_real(both, assets)) == {"digits"}
    assert reference_facts(both, assets)["name"] == "digits"
