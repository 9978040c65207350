"""Differences over networks of several training seeds."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest
from scipy import stats

from erk_bench.studies.baselines import Line
from erk_bench.studies.network_spread import methods_of, over_networks, spread_of
from erk_bench.studies.table_file import RowSpec
from tests.studies.test_table import plain_spec, record_of


def test_spread_is_that_of_a_t_test() -> None:
    """Where the sampling seeds add no error."""
    values = [-0.3, -0.1, -0.25, -0.2]
    found = spread_of(values, 0.0, 50)
    assert found.mean == pytest.approx(fmean(values)) and found.error == pytest.approx(stdev(values) / 2)
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert spread_of([0.0, 0.0], 0.0, 50).p == 1


def test_sampling_seeds_are_not_averaged_away() -> None:
    """Equal on all networks, a difference is as sure as its error over the seeds lets it be."""
    found = spread_of([-0.3, -0.3, -0.3], 0.2, 50)
    assert (found.networks, found.error) == (0, 0.2)
    assert found.p == pytest.approx(2 * stats.t.sf(1.5, 49))


def lines_of(*differences: float, group: str = "A") -> tuple[list[Line], dict[str, Line | None]]:
    """For each network a row and its baseline, apart by so much; networks differ in what both share."""
    lines, against = [], dict[str, Line | None]()
    for number, difference in enumerate(differences):
        specs = [plain_spec(f"schedule.rho={5 + number}", f"solver={name}") for name in ("heun", "euler")]
        values = [1.0 + number, 1.0 + number + difference]
        base, own = (
            Line(RowSpec(("x",), group=name), spec, [record_of(spec, value)])
            for spec, value, name in zip(specs, values, ("Heun", group), strict=True)
        )
        lines += [base, own]
        against |= {base.spec.digest: None, own.spec.digest: base}
    return lines, against


def test_a_difference_on_every_network_is_resolved() -> None:
    lines, against = lines_of(-0.3, -0.31, -0.29, -0.3)
    (note,) = over_networks(lines, against, "fd_digits")
    assert "over 4 networks" in note and "FD-digits of A minus Heun: -0.3" in note and ", better (p " in note
    assert [method.name for method in methods_of(lines, against)] == ["A"]


def test_a_difference_of_one_network_is_not() -> None:
    """Each is resolved by far over sampling seeds, whose error is the same on both sides."""
    (note,) = over_networks(*lines_of(-0.9, 0.2, 0.3, 0.25), "fd_digits")
    assert "not resolved" in note


def test_a_group_of_one_row_is_no_sample() -> None:
    assert over_networks(*lines_of(-0.3), "fd_digits") == []


def test_more_comparisons_need_more() -> None:
    lines, against = lines_of(-0.3, -0.2, -0.28)
    alone = over_networks(lines, against, "fd_digits")
    more = [lines_of(*(0.01 * math.cos(7 * k + n) for n in range(3)), group=f"B{k}") for k in range(8)]
    for k, (others, other_against) in enumerate(more):
        named = [
            plain_spec(f"schedule.rho={20 + 3 * k + n // 2}", f"solver={'heun' if n % 2 == 0 else 'euler'}")
            for n in range(6)
        ]
        moved = {line.spec.digest: line._replace(spec=spec) for line, spec in zip(others, named, strict=True)}
        lines += moved.values()
        against |= {
            moved[digest].spec.digest: base and moved[base.spec.digest]
            for digest, base in other_against.items()
        }
    assert ", better" in alone[0]
    assert "not resolved" in over_networks(lines, against, "fd_digits")[0]
