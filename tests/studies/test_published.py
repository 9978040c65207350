"""Published values and several seed sets beside measured ones, and the warnings of unfair comparisons."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from erk_bench.base.errors import UserError
from erk_bench.base.fields import to_dict
from erk_bench.commands.actions import table as table_action
from erk_bench.commands.actions.table import shifted
from erk_bench.commands.compose import run_spec
from erk_bench.reporting.latex import latex
from erk_bench.reporting.styles import SCREEN
from erk_bench.reporting.table_csv import to_csv
from erk_bench.reporting.table_views import markdown
from erk_bench.runs.records import MetricRecord, Record
from erk_bench.spec import CorrectionSpec
from erk_bench.studies.published import MINIMUM_BELOW_MEAN, compare, over_sets, unfair
from erk_bench.studies.table import build_view
from erk_bench.studies.table_file import Minimum, Published, RowSpec, TableFile

PUBLISHED = Published("a paper", 3, 400, 0.02)
BEST = Minimum("best8", "fd_digits", 4.5, "a paper, best row")


def table_of(*rows: RowSpec, published: Published = PUBLISHED, minima: tuple[Minimum, ...] = ()) -> TableFile:
    return TableFile(
        "made", "A made table", "Made here.", (), "fd_digits", rows, published=published, minima=minima
    )


def row(value: float | None = None, group: str | None = None) -> RowSpec:
    """A row with a published value."""
    return RowSpec((), {} if value is None else {"fd_digits": value}, group)


def records(*values: float, w_stiff: float = 0.0, error: float = 0.1) -> list[Record]:
    """The records of one run on following seed sets of 400 images, with jackknife values of that error."""
    spec = run_spec(["seeds=0-399", "schedule.num_steps=8"])
    if w_stiff:
        spec = dataclasses.replace(spec, correction=CorrectionSpec(name="erk_guid", w_stiff=w_stiff))
    made = []
    for index, value in enumerate(values):
        here = shifted(spec, index)
        around = np.array([-1.0, 1.0] * 10) * error / math.sqrt(19)
        metric = MetricRecord(value, error, tuple(value + around))
        made.append(
            Record(
                run_id=here.run_id, spec=to_dict(here), seeds=here.seeds, num_images=400, nfe=15, nfe_guide=0,
                metrics={"fd_digits": metric}, seconds_per_block={}, reference={}, detectors=(),
                environment={"device": "d"},
            )
        )  # fmt: skip
    return made


def published(sets: int = 3, images: int = 400, tolerance: float = 0.02) -> Published:
    return Published("a paper", sets, images, tolerance)


def test_sets_follow_each_other() -> None:
    spec = run_spec(["seeds=100-199"])
    assert [shifted(spec, index).seeds for index in range(3)] == ["100-199", "200-299", "300-399"]
    assert shifted(spec, 2).run_id == spec.run_id


def test_mean_spread_and_minimum() -> None:
    measured = over_sets(records(5.0, 5.3, 5.6), "fd_digits")
    assert measured.mean == (pytest.approx(5.3), pytest.approx(0.1 / math.sqrt(3)))
    assert measured.summary == (pytest.approx(0.3), 5.0)


@pytest.mark.parametrize(
    ("sets", "values", "gap", "within"),
    [
        (1, (5.3,), 0.3, True),  # 0.02 * 5 + 3 * 0.1 = 0.4
        (1, (5.41,), 0.41, False),
        (3, (5.3, 5.5, 5.6), 0.3, True),  # minimum with minimum; 0.02 * 5 + 3 * 0.1 / sqrt(3) = 0.273
        (3, (5.2, 6.0, 7.0), 0.2, True),
        (1, (5.0, 5.2, 5.4), 0.2, True),  # a single published set: the mean
    ],
)
def test_gap_and_tolerance(sets: int, values: tuple[float, ...], gap: float, within: bool) -> None:
    found = compare(5.0, published(sets), over_sets(records(*values), "fd_digits"), 400)
    assert found.gap == pytest.approx(gap)
    limit = 0.02 * 5 + 3 * 0.1 / math.sqrt(len(values))
    assert found.within == (gap <= limit) and (found.within == within or len(values) == 3)


def test_other_number_of_images_is_no_verdict() -> None:
    found = compare(5.0, published(images=50_000), over_sets(records(300.0), "fd_digits"), 400)
    assert found.within is None and found.gap == 295.0
    assert "50,000 images (a paper), these of 400: no verdict" in unfair(published(images=50_000), 1, 400)


def test_minimum_of_several_beside_a_single_run_is_warned_of() -> None:
    assert "minima of 3 sets" in unfair(published(3), 1, 400) and "about 0.85" in unfair(published(3), 1, 400)
    assert "use sets=3" in unfair(published(3), 2, 400)
    assert unfair(published(3), 3, 400) == "" and unfair(published(1), 1, 400) == ""


@pytest.mark.parametrize("count", sorted(MINIMUM_BELOW_MEAN))
def test_expected_minimum_of_normal_draws(count: int) -> None:
    draws = np.random.default_rng(count).normal(size=(200_000, count)).min(axis=1)
    assert -draws.mean() == pytest.approx(MINIMUM_BELOW_MEAN[count], abs=0.01)


def test_table_shows_sets_published_values_and_notes() -> None:
    plain, better = records(5.0, 5.2, 5.4), records(4.0, 4.2, 4.4, w_stiff=0.5)
    table = table_of(row(5.1), row(9.0, "best8"), minima=(BEST,))
    view = build_view(table, table.rows, [plain, better], {})
    assert [row.off for row in view.rows] == [False, True]
    assert view.rows[1].difference == (pytest.approx(-1.0), pytest.approx(0.0, abs=1e-12))
    text = markdown(view)
    assert "| FD-digits | FD-digits spread | FD-digits min | published FD-digits |" in text
    assert "| 5.200 ± 0.058 | 0.200 | 5.000 | 5.1 (-0.1) |" in text
    assert "9 (-5, OFF)" in text
    assert "lowest FD-digits of the 1 rows of group best8: 4.200 ± 0.058" in text
    assert "means of 3 seed sets" in text and "OFF beyond 2% of the published value" in text
    header, first, _ = to_csv(view).splitlines()
    values = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(values["published_fd_digits"]) == 5.1 and float(values["fd_digits_minimum"]) == 5.0
    assert "published FD-digits" in latex(view)


def test_single_run_beside_a_published_minimum_is_noted() -> None:
    table = table_of(row(5.0))
    view = build_view(table, table.rows, [records(5.1)], {})
    assert len(view.notes) == 1 and "0.85 standard deviations higher" in view.notes[0]
    assert f"Note: {view.notes[0]}." in markdown(view)


def test_the_best_of_each_group_is_told_where_the_table_asks() -> None:
    rows = (row(group="both"), row(group="both"))
    table = dataclasses.replace(table_of(*rows), best=True)
    plain = records(5.0)[0]
    guided = run_spec(["guidance=cfg", "guidance.weight=2", f"seeds={plain.seeds}", "schedule.num_steps=8"])
    other = dataclasses.replace(records(4.0)[0], spec=to_dict(guided))
    view = build_view(table, rows, [[plain], [other]], {})
    assert view.notes == (
        "lowest FD-digits of the 2 rows of both: 4.00 ± 0.10 (CFG 2)",
        "the lowest of several rows flatters itself",
    )
    assert build_view(table, rows[:1], [[plain]], {}).notes == ()
    assert build_view(table_of(*rows), rows, [[plain], [other]], {}).notes == ()


def test_a_baseline_of_another_guidance_is_named_with_it() -> None:
    rows = (row(group="a"), dataclasses.replace(row(group="b"), baseline=0))
    plain = records(5.0)[0]
    guided = run_spec(["guidance=cfg", "guidance.weight=2", f"seeds={plain.seeds}", "schedule.num_steps=8"])
    other = dataclasses.replace(records(4.0)[0], spec=to_dict(guided))
    view = build_view(table_of(*rows), rows, [[plain], [other]], {})
    assert [each.baseline for each in view.rows] == ["", "Heun, 8 steps, no guidance"]


def test_a_table_may_have_no_picture(tmp_path: Path) -> None:
    table = dataclasses.replace(table_of(row(5.0)), figure="none")
    table_action._write(table, build_view(table, table.rows, [records(5.0)], {}), tmp_path, SCREEN)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["made.csv", "made.md", "made.tex"]


def test_a_published_value_may_have_a_source_of_its_own() -> None:
    rows = (row(5.0), dataclasses.replace(row(4.0), source="another paper; to be checked"))
    table = table_of(*rows, published=published(1))
    view = build_view(table, rows, [records(5.0), records(4.0, w_stiff=0.5)], {})
    assert view.notes == (
        "published values of ERK-Guid (0.5, 0.5), no guidance: another paper; to be checked",
    )
    assert dataclasses.replace(rows[1], set=("a=b",)).overridden().source == ""


def test_published_values_of_another_sampler_get_no_verdict() -> None:
    """Far off or equal, and the note says how they were made; the row without them says nothing."""
    told = "250 steps of DDPM; here it is DDIM"
    rows = (row(5.0), dataclasses.replace(row(40.0), sampler=told), RowSpec(sampler=told))
    each = [records(5.0), records(4.0, w_stiff=0.5), records(4.5, w_stiff=0.75)]
    view = build_view(table_of(*rows, published=published(1)), rows, each, {})
    assert [[value.within for value in shown.published.values()] for shown in view.rows] == [
        [True],
        [None],
        [],
    ]
    assert not any(shown.off for shown in view.rows)
    (note,) = view.notes
    assert note.startswith("published values of ERK-Guid (0.5, 0.5), no guidance are of another sampler, so")
    assert note.endswith(told)
    assert "40 (-36)" in markdown(view)
    with pytest.raises(UserError, match="sampler has '.*'; expected a text of one line"):
        RowSpec(sampler="two\nlines")


def test_best_of_a_group_needs_all_of_it() -> None:
    rows = (row(5.0, "best8"), row(None, "best8"))
    table = table_of(*rows, published=published(1), minima=(BEST,))
    plain, better = records(5.0), records(4.0, w_stiff=0.5)
    assert build_view(table, rows[:1], [plain], {}).notes == ()
    assert len(build_view(table, rows, [plain, better], {}).notes) == 1
    other = table_of(*rows, published=published(1, images=50_000), minima=(BEST,))
    (note,) = build_view(other, rows, [plain, better], {}).notes
    assert "no verdict" in note


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"reference": {"name": "other", "sha256": "1"}}, "has reference name other, sha256 1"),
        ({"detectors": ("digits-00000000",)}, "has detectors digits-00000000"),
        ({"protocol": 0}, "has protocol 0"),
    ],
)
def test_records_measured_differently_are_no_table(change: dict[str, object], told: str) -> None:
    (plain,), (better,) = records(5.0), records(4.0, w_stiff=0.5)
    with pytest.raises(UserError, match=f"{told}.*run all rows of a table with the same settings"):
        build_view(
            table_of(row(), row()), [row(), row()], [[plain], [dataclasses.replace(better, **change)]], {}
        )  # type: ignore[arg-type]  # fields by name
