"""Standard errors of every family beside the real spread over many small sets of Gaussian features."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.evaluation.families import FAMILIES
from erk_bench.evaluation.measured import Extracted, jackknife_error
from erk_bench.evaluation.metrics import METRICS, check_count, measure
from erk_bench.evaluation.reference_files import Real
from erk_bench.runs.records import MetricRecord
from erk_bench.spec import MetricsSpec
from erk_bench.studies.verdicts import paired_error

SETS, IMAGES, REAL, DIM, CLASSES = 60, 120, 150, 3, 5
LEAST, MOST, BOUND = 0.75, 1.4, 1.7  # of coverage the error is an upper bound where nearly all is covered
QUICK = ("fd", "is", "is_adm", "cmmd")  # a second
SPEC = MetricsSpec(names=("-",), reference="-", num_groups=20, kid_subset_size=60, kid_subsets=20)

Measurement = Mapping[str, MetricRecord]


def fits(family: str) -> bool:
    try:
        check_count(dataclasses.replace(SPEC, names=(f"{family}@digits",)), IMAGES)
    except UserError:
        return False
    return True


# Families of which these sets are large enough.
SMALL = [family for family in FAMILIES if fits(family)]


def draw(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def extracted(features: torch.Tensor) -> Extracted:
    mix = torch.randn(DIM, CLASSES, generator=torch.Generator().manual_seed(0))
    return Extracted(features, 2 * features @ mix)


@functools.cache
def runs(names: tuple[str, ...]) -> tuple[list[Measurement], list[Measurement]]:
    """Metrics of many sets by two methods that share most of their noise."""
    found: tuple[list[Measurement], list[Measurement]] = ([], [])
    real = {"digits": Real(None, draw(REAL, 10**6))}
    spec = dataclasses.replace(SPEC, names=names)
    for number in range(SETS):
        first = 1.05 * draw(IMAGES, number) + 0.2
        second = 0.97 * first + 0.15 * draw(IMAGES, 1000 + number)
        for kept, features in zip(found, (first, second), strict=True):
            far = {"digits": features.double().norm(dim=1)}  # of each image to a converged solution at zero
            measured = measure(spec, {"digits": extracted(features)}, real, distances=far)
            kept.append(
                {
                    name: MetricRecord(item.value, item.standard_error, item.replicates, item.halves)
                    for name, item in measured.items()
                }
            )
    return found


def both(family: str) -> tuple[list[MetricRecord], list[MetricRecord]]:
    """Of one family; those that one function computes are measured together."""
    compute = FAMILIES[family].compute
    names = tuple(METRICS[f"{other}@digits"].name for other in SMALL if FAMILIES[other].compute is compute)
    name = METRICS[f"{family}@digits"].name
    first, second = ([run[name] for run in each] for each in runs(names))
    return first, second


def ratio(errors: Sequence[float], values: Sequence[float]) -> float:
    """Stated error over real spread."""
    stated = math.sqrt(math.fsum(error**2 for error in errors) / len(errors))
    return stated / torch.tensor(values, dtype=torch.float64).std().item()


def differences(first: Sequence[MetricRecord], second: Sequence[MetricRecord]) -> list[float]:
    return [a.value - b.value for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize(
    "family", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in SMALL]
)
def test_stated_errors_are_the_real_spread(family: str) -> None:
    """Of 60 sets the spread itself is known to 9 %."""
    first, second = both(family)
    most = BOUND if family.startswith("coverage") else MOST
    for runs in (first, second):
        found = ratio([run.standard_error for run in runs], [run.value for run in runs])
        assert LEAST < found < most
    errors = [paired_error(a, b) for a, b in zip(first, second, strict=True)]
    assert LEAST < ratio(errors, differences(first, second)) < most


@pytest.mark.slow
def test_groups_would_overstate_recall() -> None:
    """What halves are for; and the band above is narrow enough to tell."""
    first, second = both("recall")
    assert ratio([jackknife_error(run.replicates) for run in first], [run.value for run in first]) > MOST
    paired = [
        jackknife_error([x - y for x, y in zip(a.replicates, b.replicates, strict=True)])
        for a, b in zip(first, second, strict=True)
    ]
    assert ratio(paired, differences(first, second)) > MOST


def test_independent_error_would_overstate_a_pair() -> None:
    first, second = both("fd")
    errors = [math.hypot(a.standard_error, b.standard_error) for a, b in zip(first, second, strict=True)]
    assert ratio(errors, differences(first, second)) > MOST
