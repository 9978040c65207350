"""Differences by hand, pairs and why there are none, p values and Holm's correction."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from erk_bench.base.errors import UserError
from erk_bench.runs.records import MetricRecord, Record
from erk_bench.studies.verdicts import (
    LEVEL,
    RESOLVED,
    difference_of,
    holm,
    p_value,
    paired_difference,
    pairing_lack,
    unpaired_difference,
    verdict,
)
from tests.runs.test_record_folder import record_of, set_of, spec_of

VALUES = (1.0, 2.0, 3.0, 6.0)


def with_metric(source: Any = None, value: float = 3.0, replicates: tuple[float, ...] = VALUES) -> Record:
    """A record whose standard error is the jackknife's."""
    count, mean = len(replicates), sum(replicates) / len(replicates)
    error = math.sqrt((count - 1) / count * sum((x - mean) ** 2 for x in replicates))
    return record_of(source or spec_of(), metrics={"fd_digits": MetricRecord(value, error, replicates)})


def test_a_paired_difference_by_hand() -> None:
    """The replicates differ by 0, 1, 1, 2: mean 1, squares about it 2, times 3/4."""
    mine, other = with_metric(value=3.5, replicates=(1.0, 3.0, 4.0, 8.0)), with_metric(value=3.0)
    for found in (paired_difference(mine, other, "fd_digits"), difference_of(mine, other, "fd_digits")):
        assert found == (0.5, pytest.approx(math.sqrt(1.5)))
    assert pairing_lack(mine, other, "fd_digits") == ""


def test_an_unpaired_difference_by_hand() -> None:
    """Each record's squares about its mean of 3 are 14, times 3/4; both errors count."""
    mine, other = with_metric(spec_of("seeds=100-139"), value=3.5), with_metric(value=3.0)
    assert unpaired_difference(mine, other, "fd_digits") == (0.5, pytest.approx(math.sqrt(2 * 10.5)))
    assert difference_of(mine, other, "fd_digits") == unpaired_difference(mine, other, "fd_digits")


@pytest.mark.parametrize(
    ("mine", "other", "lack"),
    [
        (spec_of(), spec_of(), ""),
        (spec_of(), spec_of("solver=euler"), ""),
        (spec_of(), spec_of("seeds=40-79"), "other seeds"),
        (spec_of(), spec_of("seeds=39-78"), "1 of the seeds in both"),
        (spec_of("seeds=20-29"), spec_of(), "10 of the seeds in both"),
        (spec_of(), set_of(numbers="0-39"), ""),
        (spec_of(), set_of(numbers="1-40"), "39 of the seeds in both"),
        (spec_of(), set_of(), "seeds and names"),  # its places are 0-39, but no seeds
        (set_of(), set_of("others"), ""),
        (set_of(), set_of(names_sha256="3" * 64), "other names"),
        (set_of(numbers="0-39"), set_of(numbers="0-39", names_sha256="3" * 64), ""),
    ],
)
def test_which_records_are_pairs(mine: Any, other: Any, lack: str) -> None:
    assert pairing_lack(with_metric(mine), with_metric(other), "fd_digits") == lack
    assert pairing_lack(with_metric(other), with_metric(mine), "fd_digits") == lack


def test_other_groups_are_no_pair() -> None:
    mine, other = with_metric(replicates=(1.0, 2.0)), with_metric()
    assert pairing_lack(mine, other, "fd_digits") == "2 and 4 groups"
    assert difference_of(mine, other, "fd_digits") == unpaired_difference(mine, other, "fd_digits")
    with pytest.raises(UserError, match="has 2 jackknife groups"):
        paired_difference(mine, other, "fd_digits")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_has_no_verdict(bad: float) -> None:
    """Neither a value nor one replicate of two."""
    one = with_metric(value=bad, replicates=(1.0, math.inf, -math.inf, bad))
    for mine, other in ((one, with_metric()), (with_metric(), one), (one, one)):
        found = difference_of(mine, other, "fd_digits")
        assert math.isnan(found[1]) and math.isnan(p_value(found))
        assert verdict(found, lower=True) == verdict(found, lower=False) == "undefined"
    assert verdict((bad, 0.1), lower=True) == verdict((0.1, bad), lower=True) == "undefined"


def test_p_values_are_those_of_a_normal_distribution() -> None:
    for value, error in ((0.5, 0.25), (-3.0, 1.0), (1e-3, 1.0), (20.0, 1.0)):
        assert p_value((value, error)) == pytest.approx(2 * stats.norm.sf(abs(value / error)), rel=1e-12)
    assert p_value((0.0, 0.0)) == p_value((0.0, 1.0)) == 1.0 and p_value((0.1, 0.0)) == 0.0
    assert pytest.approx(2 * stats.norm.sf(RESOLVED)) == LEVEL


def test_holms_correction_by_hand() -> None:
    """The smallest of four times four, the next times three, ..., never falling, at most one."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([0.02]) == [0.02] and holm([]) == []
    assert holm([0.02, 0.02]) == [0.04, 0.04]


def test_holms_correction_is_the_closure_of_bonferronis() -> None:
    """A value corrected is the largest Bonferroni p of all sets of comparisons that it is in."""
    generator = np.random.default_rng(3)
    for count in range(1, 7):
        values = (generator.random(count) ** 3).round(3).tolist()
        subsets = [
            subset for size in range(1, count + 1) for subset in itertools.combinations(range(count), size)
        ]
        expected = [
            max(
                min(1.0, len(subset) * min(values[i] for i in subset))
                for subset in subsets
                if place in subset
            )
            for place in range(count)
        ]
        assert holm(values) == pytest.approx(expected)


def test_what_has_no_p_value_does_not_count() -> None:
    corrected = holm([0.01, math.nan, 0.02])
    assert corrected[0] == 0.02 and math.isnan(corrected[1]) and corrected[2] == 0.02


@pytest.mark.parametrize(
    ("difference", "lower", "p", "told"),
    [
        ((-0.3, 0.1), True, None, "better"),
        ((-0.3, 0.1), False, None, "worse"),
        ((-0.3, 0.1), True, 0.04, "better"),
        ((-0.3, 0.1), True, 0.05, "not resolved"),  # corrected for many
        ((0.2, 0.1), True, None, "not resolved"),  # two errors exactly
        ((0.0, 0.0), True, None, "not resolved"),
        ((0.1, 0.0), True, None, "worse"),
    ],
)
def test_verdicts(difference: tuple[float, float], lower: bool, p: float | None, told: str) -> None:
    assert verdict(difference, lower, p) == told
