"""Records beside each other: rows, baselines, verdicts over many, refusals, names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from erk_bench.base.errors import UserError
from erk_bench.reporting.comparison_views import ComparisonRow
from erk_bench.runs.records import MetricRecord
from erk_bench.studies.compare import compare
from erk_bench.studies.comparison_names import NamedRecord, names_of
from erk_bench.studies.verdicts import LEVEL, SEEDS_ONLY
from tests.runs.test_record_folder import record_of, set_of, spec_of


def entry(
    source: Any = None,
    values: dict[str, tuple[float, float]] | None = None,
    *,
    file: str = "",
    label: str = "",
    **changes: Any,
) -> NamedRecord:
    """A record with the values and standard errors of its metrics; replicates about each value."""
    source = source or spec_of()
    metrics = {
        name: MetricRecord(value, error, tuple(value + error * share / 3**0.5 for share in (-1, 1, -1, 1)))
        for name, (value, error) in (values or {"fd_digits": (1.0, 0.1)}).items()
    }
    record = record_of(source, metrics=metrics, **changes)
    return NamedRecord(record, Path(file or f"{source.run_id}.json"), label)


def shown(rows: Sequence[ComparisonRow], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(row, name) for name in names) for row in rows]


EULER, HEUN, LONGER = spec_of("solver=euler"), spec_of(), spec_of("schedule.num_steps=6")


def test_two_records_of_the_same_seeds() -> None:
    """By hand: the replicates differ by the values' difference and 0.1 of error."""
    one = entry(HEUN, {"fd_digits": (1.0, 0.1), "recall_digits": (0.5, 0.1), "is_digits": (2.0, 0.1)})
    other = entry(EULER, {"recall_digits": (0.9, 0.2), "fd_digits": (1.5, 0.2)})
    view = compare([one, other])
    assert view.title == "Euler against Heun"
    assert shown(view.rows, "metric", "record", "baseline", "verdict", "pairing") == [
        ("fd_digits", "Euler", "Heun", "worse", "paired"),
        ("recall_digits", "Euler", "Heun", "better", "paired"),
    ]
    for row, difference in zip(view.rows, (0.5, 0.4), strict=True):
        assert row.difference == pytest.approx((difference, 0.1))
        assert row.z == pytest.approx(10 * difference)
        assert row.p == pytest.approx(math.erfc(10 * difference / 2**0.5))
    assert view.rows[0].p_holm == pytest.approx(2 * view.rows[0].p)  # the smaller of two
    assert view.rows[1].p_holm == pytest.approx(view.rows[1].p)
    assert view.rows[0].value == (1.5, 0.2) and view.rows[0].base_value == (1.0, 0.1)
    assert "digits, 4 steps, no guidance, seeds 0-39; 40 images each" in view.caption
    assert "2 comparisons of this table (1 pair of records, 2 metrics)" in view.caption
    assert SEEDS_ONLY in view.caption and view.notes == ()


def test_the_baseline_may_be_any() -> None:
    entries = [entry(HEUN), entry(EULER, {"fd_digits": (2.0, 0.1)}), entry(LONGER)]
    view = compare(entries, baseline=1)
    assert view.title == "2 records against Euler, 4 steps"
    assert shown(view.rows, "record", "verdict") == [("Heun, 4 steps", "better"), ("Heun, 6 steps", "better")]
    assert compare(entries[:2], baseline=1).title == "Heun against Euler"


def test_each_pair() -> None:
    entries = [entry(HEUN), entry(EULER, {"fd_digits": (2.0, 0.1)}), entry(LONGER)]
    view = compare(entries, all_pairs=True)
    assert view.title == "3 records, each pair"
    assert shown(view.rows, "record", "baseline", "difference") == [
        ("Euler, 4 steps", "Heun, 4 steps", (1.0, pytest.approx(0.0, abs=1e-15))),
        ("Heun, 6 steps", "Heun, 4 steps", (0.0, 0.0)),
        ("Heun, 6 steps", "Euler, 4 steps", (-1.0, pytest.approx(0.0, abs=1e-15))),
    ]


def test_many_comparisons_resolve_less() -> None:
    """2.1 standard errors are resolved alone, and not among three."""
    base, near = entry(HEUN), entry(EULER, {"fd_digits": (1.42, 0.3)})
    assert shown(compare([base, near]).rows, "verdict") == [("worse",)]
    more = [entry(LONGER, {"fd_digits": (1.02, 0.3)}), entry(spec_of("schedule.num_steps=7"),
            {"fd_digits": (1.0, 0.3)})]  # fmt: skip
    rows = compare([base, near, *more]).rows
    assert rows[0].p < LEVEL < rows[0].p_holm == pytest.approx(3 * rows[0].p)
    assert shown(rows, "verdict") == [("not resolved",)] * 3


def test_chosen_metrics_are_the_family() -> None:
    values = {"fd_digits": (1.0, 0.1), "recall_digits": (0.5, 0.1)}
    entries = [entry(HEUN, values), entry(EULER, values)]
    view = compare(entries, metrics=["recall@digits"])
    assert shown(view.rows, "metric", "p_holm") == [("recall_digits", 1.0)]
    assert "p below" in view.caption and "Holm" not in view.caption
    with pytest.raises(UserError, match="unknown metric of the records 'kid_digits'"):
        compare(entries, metrics=["kid_digits"])


def test_the_same_record_twice_is_equal() -> None:
    view = compare([entry(file="a/x.json"), entry(file="b/x.json")])
    assert shown(view.rows, "verdict", "z", "p", "pairing") == [("equal", 0.0, 1.0, "paired")]
    assert view.title == "Heun, b against Heun, a"


@pytest.mark.parametrize(
    ("other", "lack", "note"),
    [
        (spec_of("seeds=40-79"), "other seeds", "as of independent images"),
        (spec_of("seeds=20-59"), "20 of the seeds in both", "correlated"),
        (set_of(), "seeds and names", "as of independent images"),
    ],
)
def test_unpaired_records_are_told(other: Any, lack: str, note: str) -> None:
    view = compare([entry(HEUN, {"fd_digits": (1.0, 0.3)}), entry(other, {"fd_digits": (2.0, 0.4)})])
    (row,) = view.rows
    assert row.pairing == f"unpaired: {lack}" and row.difference == (1.0, pytest.approx(0.5))
    assert row.verdict == "not resolved" or row.p < LEVEL
    assert any(note in each for each in view.notes) and "where the line says so" in view.caption


def test_other_groups_are_unpaired() -> None:
    other = entry(EULER)
    fewer = MetricRecord(1.0, 0.2, (0.9, 1.1))
    other = other._replace(record=dataclasses.replace(other.record, metrics={"fd_digits": fewer}))
    view = compare([entry(HEUN), other])
    assert view.rows[0].pairing == "unpaired: 2 and 4 groups" and len(view.notes) == 2


def test_sets_of_other_sizes_are_compared_where_size_does_not_matter() -> None:
    values = {"fd_digits": (1.0, 0.1), "kid_digits": (1.0, 0.1), "fd_infinity_digits": (1.0, 0.1)}
    larger = dict.fromkeys(values, (2.0, 0.1))
    view = compare([entry(HEUN, values), entry(spec_of("seeds=100-199"), larger)])
    assert shown(view.rows, "metric", "verdict") == [
        ("fd_digits", "not comparable"), ("kid_digits", "worse"), ("fd_infinity_digits", "worse"),
    ]  # fmt: skip
    assert math.isnan(view.rows[0].p_holm) and "2 comparisons of this table" in view.caption
    assert any("40, 100 images" in note for note in view.notes)
    others = dict.fromkeys(("precision_digits", "density@digits", "recall_digits", "is_digits"), (1.0, 0.1))
    rows = compare([entry(HEUN, others), entry(spec_of("seeds=100-199"), others)]).rows
    assert [row.verdict == "not comparable" for row in rows] == [False, False, True, True]
    nearly = compare([entry(HEUN, num_images=1000), entry(EULER, num_images=998)])
    assert nearly.rows[0].verdict == "equal"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_undefined(bad: float) -> None:
    values = {"fd_digits": (bad, 0.1), "kid_digits": (5.0, bad), "recall_digits": (0.9, 0.1)}
    base = {"fd_digits": (1.0, 0.1), "kid_digits": (1.0, 0.1), "recall_digits": (0.5, 0.1)}
    rows = compare([entry(HEUN, base), entry(EULER, values)]).rows
    assert shown(rows, "verdict") == [("undefined",), ("undefined",), ("better",)]
    assert rows[2].p_holm == rows[2].p  # the only comparison that counts


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reference": {"name": "cats", "sha256": "9" * 64}},
         "the reference is 'cats' (999999999999) of the first, 'digits' (000000000000) of the second"),
        ({"detectors": ("digits-87654321",)},
         "the detector of fd_digits is digits-87654321 of the first, digits-12345678 of the second"),
        ({"protocol": 2}, "the protocol of sampling is 2 of the first, 1 of the second"),
    ],
)  # fmt: skip
def test_records_measured_otherwise_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        compare([entry(HEUN, file="a.json"), entry(EULER, file="b.json", **changes)])
    assert f"'b.json' and 'a.json' cannot be compared: {told}; " in str(error.value)


def test_another_protocol_of_the_field_is_refused() -> None:
    other = entry(EULER)
    spec = {**other.record.spec, "metrics": {**other.record.spec["metrics"], "protocol": "adm"}}
    other = other._replace(record=dataclasses.replace(other.record, spec=spec))
    with pytest.raises(UserError, match="the protocol is adm of the first, our own of the second"):
        compare([entry(HEUN), other])


def test_other_real_features_matter_for_metrics_that_need_them() -> None:
    """Detectors of metrics that are not shared do not matter either."""

    def measured(features: str, detector: str, names: Sequence[str]) -> NamedRecord:
        reference = {"name": "digits", "sha256": "0" * 64, "features": features, "features_sha256": features}
        keys = ("digits-12345678", f"inception-{detector}")
        return entry(
            HEUN, dict.fromkeys(names, (1.0, 0.1)), file=features, reference=reference, detectors=keys
        )

    view = compare([measured("1" * 64, "aa", ["fd_digits", "fid"]), measured("2" * 64, "bb", ["fd_digits"])])
    assert len(view.rows) == 1
    with pytest.raises(UserError, match="the file of real features is"):
        names = ["fd_digits", "recall_digits"]
        compare([measured("1" * 64, "aa", names), measured("2" * 64, "aa", names)])
    with pytest.raises(UserError, match="the detector of fid is inception-bb of the first"):
        compare([measured("1" * 64, "aa", ["fid"]), measured("1" * 64, "bb", ["fid"])])


def test_no_shared_metric_is_refused() -> None:
    with pytest.raises(UserError, match="share no metric: kid_digits; and fd_digits; measure one"):
        compare([entry(HEUN), entry(EULER, {"kid_digits": (1.0, 0.1)})])


@pytest.mark.parametrize(("count", "told"), [(0, "no records"), (1, "one record to compare")])
def test_fewer_than_two_are_refused(count: int, told: str) -> None:
    with pytest.raises(UserError, match=told):
        compare([entry(HEUN)] * count)


def test_a_metric_of_ones_own_without_its_file_is_left_out() -> None:
    values = {"fd_digits": (1.0, 0.1), "gone.py:mine@digits": (1.0, 0.1)}
    view = compare([entry(HEUN, values), entry(EULER, values)])
    assert shown(view.rows, "metric") == [("fd_digits",)]
    assert view.notes[0].startswith("gone.py:mine@digits is left out")
    with pytest.raises(UserError, match="gone.py"):
        compare([entry(HEUN, values), entry(EULER, values)], metrics=["gone.py:mine@digits"])


# Names


def test_names_say_what_differs_and_no_more() -> None:
    guided = spec_of("guidance=cfg", "guidance.weight=1.5")
    names = names_of([entry(HEUN), entry(guided), entry(spec_of("schedule.num_steps=6"))])
    assert names.each == ["4 steps, no guidance", "4 steps, CFG 1.5", "6 steps, no guidance"]
    assert names.common == "digits, Heun, seeds 0-39"


def test_names_of_sets_and_runs() -> None:
    names = names_of([entry(HEUN), entry(set_of("their images")), entry(set_of("zip", numbers="0-39"))])
    assert names.each == ["digits, Heun, 4 steps, no guidance, seeds 0-39", "their images", "zip"]
    assert names.common == ""


def test_names_are_never_the_same() -> None:
    same = [entry(file=name) for name in ("a/x.json", "b/x.json", "a/y.json", "c/b/x.json", "a/x.json")]
    names = names_of(same).each
    assert len(set(names)) == 5 and all(name.startswith("Heun") for name in names)
    seeds = names_of([entry(HEUN), entry(spec_of("seeds=40-79"))])
    assert seeds.each == ["seeds 0-39", "seeds 40-79"]
    labelled = names_of([entry(label="mine"), entry(EULER, label="mine", file="z.json")]).each
    assert labelled == ["mine, " + entry().file.name, "mine, z.json"]
