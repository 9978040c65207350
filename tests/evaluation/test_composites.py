"""Metrics that are means of others: their values, errors, checks and names."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.commands.compose import run_spec
from erk_bench.evaluation.composites import COMPOSITES, Composite, Summand
from erk_bench.evaluation.detectors import DETECTORS
from erk_bench.evaluation.frechet import FeatureSums
from erk_bench.evaluation.measured import Extracted, jackknife_error
from erk_bench.evaluation.metrics import (
    METRICS,
    check_count,
    check_real,
    code_keys,
    detectors_of,
    key_names,
    measure,
    parts_of,
    singles,
)
from erk_bench.evaluation.reference import load_real
from erk_bench.evaluation.reference_files import Real, write_reference
from erk_bench.runs.blocks import Worker
from erk_bench.runs.checks import check_images
from erk_bench.runs.device import assets_of
from erk_bench.runs.generate import generate
from erk_bench.runs.score import score
from erk_bench.spec import MetricsSpec

ROW = Composite(
    "fdr2", "FDr2", (Summand("fd_digits", 2.0), Summand("fd@digits2", 0.5), Summand("cmmd@digits", 10.0))
)


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DETECTORS, "digits2", DETECTORS["digits"]._replace(title="digits2"))
    monkeypatch.setitem(COMPOSITES, "fdr2", ROW)


def spec_of(*names: str) -> MetricsSpec:
    return MetricsSpec(names=names, reference="digits", num_groups=5)


def features(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def test_value_and_replicates_are_means_of_the_parts() -> None:
    images = {"digits": Extracted(features(60, 1)), "digits2": Extracted(features(60, 2))}
    real = {"digits": Real(None, features(50, 3)), "digits2": Real(None, features(50, 4) + 1)}
    found = measure(spec_of("fdr2", "fd_digits", "fd@digits2", "cmmd@digits"), images, real)
    assert list(found) == ["fdr2", "fd_digits", "fd@digits2", "cmmd@digits"]
    assert measure(spec_of("fdr2"), images, real) == {"fdr2": found["fdr2"]}
    parts = [found[name] for name in list(found)[1:]]

    def mean(values: list[float]) -> float:
        return (values[0] / 2 + values[1] / 0.5 + values[2] / 10) / 3

    assert found["fdr2"].value == pytest.approx(mean([part.value for part in parts]), rel=1e-12)
    replicates = [mean([part.replicates[group] for part in parts]) for group in range(5)]
    assert found["fdr2"].replicates == pytest.approx(replicates, rel=1e-12)
    assert found["fdr2"].standard_error == pytest.approx(jackknife_error(replicates), rel=1e-12)


def test_errors_of_dependent_parts_do_not_add_in_quadrature() -> None:
    """Two equal parts: the error of their mean is that of one."""
    one = measure(
        spec_of("fd_digits"), {"digits": Extracted(features(60, 1))}, {"digits": Real(None, features(50, 3))}
    )["fd_digits"]
    both = Composite("twice", "twice", (Summand("fd_digits", 1.0), Summand("fd@digits2", 1.0))).mean(
        [one, one]
    )
    assert both.standard_error == pytest.approx(one.standard_error, rel=1e-9)
    assert one.standard_error > 0


def test_a_composite_is_a_metric_by_name() -> None:
    assert METRICS["fdr2"].name == "fdr2" and METRICS["fdr2"].title == "FDr2" and METRICS["fdr2"].lower
    assert "fdr2" in METRICS and "fdr2" in list(METRICS) and len(METRICS) == len(list(METRICS))
    assert [metric.name for metric in parts_of("fdr2")] == ["fd_digits", "fd@digits2", "cmmd@digits"]
    assert [metric.name for metric in parts_of("fid")] == ["fid"]
    assert [metric.name for metric in singles(["fd@digits", "fdr2"])] == [
        "fd_digits", "fd@digits2", "cmmd@digits",
    ]  # fmt: skip
    assert detectors_of(["fdr2"]) == ["digits", "digits2"]
    assert key_names(["fdr2"]) == {"digits", "digits2"} and code_keys(["fdr2"]) == []
    with pytest.raises(UserError, match="did you mean 'fdr2'"):
        detectors_of(["fdr22"])


def test_too_few_images_or_images_that_a_part_does_not_take() -> None:
    with pytest.raises(UserError, match="9 images are too few for 5 jackknife groups"):
        check_count(spec_of("fdr2"), 9)
    with pytest.raises(UserError, match="9 images are too few for 5 jackknife groups"):
        check_real(spec_of("fdr2"), 9, {"digits": Real(None, features(50, 3))})
    spec = run_spec(["model=edm-cifar10-32x32-cond-vp", "metrics.names=[fdr2]"], fetch=False)
    with pytest.raises(UserError, match="metric 'fdr2' takes images of .* and 8x8 pixels") as told:
        check_images(spec, assets_of(spec))
    assert "fid" in str(told.value) and "fdr2," not in str(told.value)


def test_a_part_that_the_reference_lacks_is_named(tmp_path: Path) -> None:
    """No value of the other parts alone."""
    real = features(200, 3).repeat(1, 16)
    stats = FeatureSums.of(real).stats()
    write_reference(tmp_path / "ref.safetensors", {"digits": Real(stats, real)}, {})
    spec = MetricsSpec(names=("fdr2",), reference=str(tmp_path / "ref.safetensors"))
    told = "metric 'fdr2' needs statistics of real images by detector 'digits2'"
    with pytest.raises(UserError, match=re.escape(told)):
        load_real(spec, Assets.from_environment())


def test_a_run_records_it(tmp_path: Path) -> None:
    words = ["metrics.names=[fdr2,fd_digits,cmmd@digits]", "seeds=0-39", "metrics.num_groups=5"]
    spec = run_spec([*words, f"out={tmp_path}", "schedule.num_steps=3"])
    generate([[spec]], Worker(), lambda spec, count: None, features=True)
    record = score(spec)
    values = {name: np.array([each.value, *each.replicates]) for name, each in record.metrics.items()}
    expected = (values["fd_digits"] * (1 / 2 + 1 / 0.5) + values["cmmd@digits"] / 10) / 3
    assert values["fdr2"] == pytest.approx(expected, rel=1e-9)
    assert math.isfinite(record.metrics["fdr2"].standard_error)
