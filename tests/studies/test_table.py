"""From records to table rows: pairing, paired errors, verdicts, overhead and reproduction."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erk_bench.base.errors import UserError
from erk_bench.base.fields import to_dict
from erk_bench.commands.compose import run_spec
from erk_bench.commands.compose_studies import table_file
from erk_bench.evaluation.measured import jackknife_error
from erk_bench.evaluation.metrics import METRICS
from erk_bench.reporting.latex import latex
from erk_bench.reporting.table_csv import to_csv
from erk_bench.reporting.table_views import TableRow, TableView, markdown
from erk_bench.runs.records import MetricRecord, Record, write_record
from erk_bench.spec import CorrectionSpec, RunSpec
from erk_bench.studies.records import read_folder, read_records
from erk_bench.studies.table import build_view, pairs, references_for
from erk_bench.studies.table_file import RowSpec, TableFile
from erk_bench.studies.verdicts import overhead, paired_difference, reproduction, verdict

NUM_GROUPS = 20
ERK_GUID = CorrectionSpec(name="erk_guid", w_stiff=0.5, w_con=0.25)
TABLE = TableFile("made", "A made table", "Made here.", (), "fd_digits", (RowSpec(()),))


@cache
def plain_spec(*overrides: str) -> RunSpec:
    return run_spec(["schedule.num_steps=8", "seeds=0-399", "block_size=100", *overrides])


def corrected(spec: RunSpec) -> RunSpec:
    return dataclasses.replace(spec, correction=ERK_GUID)


def metric(value: float, error: float = 0.1, seed: int = 0) -> MetricRecord:
    """A metric with leave-one-out values around `value` whose standard error is `error`."""
    noise = np.random.default_rng(seed).normal(size=NUM_GROUPS)
    noise -= noise.mean()
    scale = error / jackknife_error(noise.tolist())
    return MetricRecord(value, error, tuple((value + scale * noise).tolist()))


def record_of(
    spec: RunSpec,
    value: float = 1.0,
    *,
    metrics: dict[str, MetricRecord] | None = None,
    seconds: dict[str, float] | None = None,
    protocol: int = 1,
) -> Record:
    return Record(
        run_id=spec.run_id,
        spec=to_dict(spec),
        seeds=spec.seeds,
        num_images=len(spec.seed_range),
        nfe=2 * spec.schedule.num_steps - 1,
        nfe_guide=2 * spec.schedule.num_steps - 1 if spec.guidance.weight != 1 else 0,
        metrics=metrics or {"fd_digits": metric(value), "precision_digits": metric(0.9, 0.01)},
        seconds_per_block={"0": 1.0, "1": 1.0} if seconds is None else seconds,
        reference={"name": "digits", "sha256": "0" * 64},
        detectors=("digits-12345678",),
        environment={"device": "a CPU of ours"},
        protocol=protocol,
    )


def rows_of(*records: Record, references: dict[str, Record] | None = None) -> tuple[TableRow, ...]:
    return view_of(*records, references=references).rows


def view_of(*records: Record, references: dict[str, Record] | None = None, **table: Any) -> TableView:
    """The table of single records, without published values; table: entries that differ from TABLE's."""
    return build_view(
        dataclasses.replace(TABLE, **table),
        [RowSpec(())] * len(records),
        [[record] for record in records],
        references or {},
    )


# Pairing


def test_row_is_compared_with_the_same_run_without_correction() -> None:
    plain, other = plain_spec(), plain_spec("schedule.num_steps=16")
    records = [
        record_of(plain, 5.0),
        record_of(corrected(plain), 4.0),
        record_of(corrected(other), 1.5),  # before its baseline
        record_of(other, 2.5),
    ]
    rows = rows_of(*records)
    assert [row.difference and round(row.difference[0], 12) for row in rows] == [None, -1.0, -1.0, None]
    assert [row.steps for row in rows] == [8, 8, 16, 16]
    assert [row.verdict for row in rows] == ["", "better", "better", ""]


@pytest.mark.parametrize(
    "override", ["guidance=cfg", "schedule.num_steps=9", "dtype=float64", "class_label=3", "schedule.rho=5"]
)
def test_row_of_another_setting_is_no_baseline(override: str) -> None:
    (_, row) = rows_of(record_of(plain_spec(override), 5.0), record_of(corrected(plain_spec()), 4.0))
    assert row.difference is None
    assert row.verdict == ""
    assert row.overhead is None


def test_correction_without_strength_is_the_plain_solver() -> None:
    zero = dataclasses.replace(plain_spec(), correction=CorrectionSpec(name="erk_guid"))
    (row,) = rows_of(record_of(zero))
    assert (row.method, row.difference) == ("Heun", None)


def test_pairs_join_rows_of_one_baseline() -> None:
    a, b = plain_spec(), plain_spec("guidance=autoguidance")
    stronger = dataclasses.replace(a, correction=dataclasses.replace(ERK_GUID, w_stiff=2.0))
    assert pairs([a, b, corrected(a), corrected(b), stronger]) == [
        [a, corrected(a), stronger],
        [b, corrected(b)],
    ]
    assert corrected(a).baseline.digest == a.digest


def test_rows_say_guidance_method_and_evaluations() -> None:
    guided = plain_spec("guidance=cfg", "guidance.weight=1.5")
    auto = plain_spec("guidance=autoguidance")
    rows = rows_of(
        record_of(plain_spec("solver=euler")),
        record_of(corrected(guided)),
        record_of(auto),
    )
    assert [(row.guidance, row.method, row.nfe, row.nfe_guide) for row in rows] == [
        ("no guidance", "Euler", 15, 0),
        ("CFG 1.5", "ERK-Guid on Heun (0.5, 0.25)", 15, 15),
        ("autoguidance 1.25", "Heun", 15, 15),
    ]


def test_solvers_are_compared_at_equal_cost() -> None:
    """The best corrected row of a cost against the best plain one, whichever solver that is."""
    heun = plain_spec()
    values = {
        heun: (8, 1.0),
        corrected(heun): (8, 0.5),
        plain_spec("solver=deis"): (8, 0.7),
        plain_spec("solver=dpmpp", "solver.max_order=2"): (8, 0.9),
        plain_spec("solver=unipc"): (6, 0.1),
    }
    records = [
        dataclasses.replace(record_of(spec, value, metrics={"fd_digits": metric(value)}), nfe=nfe)
        for spec, (nfe, value) in values.items()
    ]
    view = view_of(*records)
    assert [row.method for row in view.rows] == [
        "Heun", "ERK-Guid on Heun (0.5, 0.25)", "DEIS", "DPM-Solver++, max_order 2", "UniPC",
    ]  # fmt: skip
    assert [row.solver for row in view.rows][:2] == ["Heun", "Heun"]
    assert view.notes == (
        "8 evaluations, no guidance: best corrected ERK-Guid on Heun (0.5, 0.25) 0.50 ± 0.10, "
        "best plain DEIS 0.70 ± 0.10; difference -0.200000 ± 0.000000, better",
    )
    assert view_of(record_of(heun), record_of(corrected(heun))).notes == ()


# Paired differences


def test_difference_of_correlated_runs_is_surer_than_of_independent_ones() -> None:
    rng = np.random.default_rng(3)
    shared = rng.normal(size=NUM_GROUPS)
    records = []
    for spec, value in ((plain_spec(), 5.0), (corrected(plain_spec()), 4.8)):
        values = value + 0.02 * shared + 0.002 * rng.normal(size=NUM_GROUPS)
        left_out = tuple(values.tolist())
        single = MetricRecord(value, jackknife_error(left_out), left_out)
        records.append(record_of(spec, metrics={"fd_digits": single}))
    found, error = paired_difference(records[1], records[0], "fd_digits")
    a, b = (record.metrics["fd_digits"] for record in records)
    assert found == pytest.approx(-0.2)
    gaps = np.subtract(b.replicates, a.replicates)
    count = NUM_GROUPS
    assert error == pytest.approx(math.sqrt((count - 1) / count * ((gaps - gaps.mean()) ** 2).sum()))
    assert error < 0.3 * math.hypot(a.standard_error, b.standard_error)
    # Only the pairing resolves it.
    assert verdict((found, error), lower=True) == "better"
    assert verdict((found, math.hypot(a.standard_error, b.standard_error)), lower=True) == "not resolved"


def test_difference_changes_its_sign_with_the_order() -> None:
    a, b = record_of(plain_spec(), 5.0), record_of(corrected(plain_spec()), 4.0)
    b = dataclasses.replace(b, metrics={"fd_digits": metric(4.0, seed=1)})
    value, error = paired_difference(a, b, "fd_digits")
    assert paired_difference(b, a, "fd_digits") == (-value, error)
    assert error > 0.05


def test_other_seeds_are_no_pair() -> None:
    other = dataclasses.replace(plain_spec(), seeds="400-799")
    with pytest.raises(UserError, match=r"has seeds 0-399, .* 400-799: no pair"):
        paired_difference(record_of(corrected(plain_spec())), record_of(other), "fd_digits")


def test_other_number_of_groups_is_no_pair() -> None:
    few = metric(1.0)
    few = dataclasses.replace(few, replicates=few.replicates[:5])
    other = record_of(plain_spec(), metrics={"fd_digits": few})
    with pytest.raises(UserError, match=r"20 jackknife groups, .* 5; .*metrics\.num_groups"):
        paired_difference(record_of(corrected(plain_spec())), other, "fd_digits")


@pytest.mark.parametrize(
    ("value", "error", "lower", "expected"),
    [
        (-1.0, 0.49, True, "better"),
        (-1.0, 0.49, False, "worse"),
        (1.0, 0.49, True, "worse"),
        (1.0, 0.49, False, "better"),
        (-1.0, 0.51, True, "not resolved"),
        (1.0, 0.51, False, "not resolved"),
        (1.0, 0.5, True, "not resolved"),
        (0.0, 0.0, True, "not resolved"),
        (-1e-9, 0.0, True, "better"),
    ],
)
def test_verdict(value: float, error: float, lower: bool, expected: str) -> None:
    assert verdict((value, error), lower) == expected


@pytest.mark.parametrize(("headline", "expected"), [("fd_digits", "better"), ("precision_digits", "worse")])
def test_table_knows_which_values_of_its_headline_are_better(headline: str, expected: str) -> None:
    records = [
        record_of(spec, metrics={name: metric(value, seed=index) for name in METRICS})
        for index, (spec, value) in enumerate([(plain_spec(), 5.0), (corrected(plain_spec()), 3.0)])
    ]
    view = view_of(*records, headline=headline)
    assert view.rows[1].verdict == expected
    assert view.lower == METRICS[headline].lower
    assert next(iter(view.rows[0].metrics)) == headline
    assert set(view.rows[0].metrics) == set(METRICS)
    assert view.rows[1].metrics[headline] == (METRICS[headline].title, (3.0, 0.1))


# Time


def test_overhead_is_the_median_over_blocks_that_both_timed() -> None:
    plain = record_of(plain_spec(), seconds={"0": 1.0, "1": 2.0, "2": 4.0, "3": 9.0})
    slower = record_of(corrected(plain_spec()), seconds={"0": 1.1, "1": 2.6, "2": 4.8, "7": 100.0})
    ratios = [1.1 / 1.0, 2.6 / 2.0, 4.8 / 4.0]
    error = math.sqrt(math.pi / 2 / 3) * statistics.stdev(ratios)
    assert overhead(slower, plain) == pytest.approx((statistics.median(ratios) - 1, error))
    (_, row) = rows_of(plain, slower)
    assert row.overhead == overhead(slower, plain)
    assert row.seconds_per_1000 == slower.seconds_per_1000


def test_overhead_without_common_blocks_is_unknown() -> None:
    plain = record_of(plain_spec(), seconds={"0": 1.0})
    assert overhead(record_of(corrected(plain_spec()), seconds={"1": 1.0}), plain) is None
    (_, row) = rows_of(plain, record_of(corrected(plain_spec()), seconds={}))
    assert (row.overhead, row.seconds_per_1000) == (None, None)
    one = record_of(corrected(plain_spec()), seconds={"0": 1.0})
    assert overhead(one, plain) is None  # one block tells no spread


# Reproduction


@pytest.mark.parametrize(
    ("value", "seeds", "told", "off"),
    [
        (1.0, "0-399", "within 0.00 SE", False),
        (1.09, "0-399", "within 0.90 SE", False),
        (0.89, "0-399", "OFF by 1.10 SE", True),
        # other seeds: both errors, 0.1 * sqrt(2), and three times the tolerance
        (1.4, "400-799", "within 2.83 SE, other seeds", False),
        (0.5, "400-799", "OFF by 3.54 SE, other seeds", True),
    ],
)
def test_reproduction(value: float, seeds: str, told: str, off: bool) -> None:
    reference = record_of(plain_spec(), 1.0)
    record = record_of(dataclasses.replace(plain_spec(), seeds=seeds), value)
    assert record.run_id == reference.run_id
    assert reproduction(record, reference, "fd_digits", tolerance=1.0) == (told, off)
    (row,) = rows_of(record, references={reference.run_id: reference})
    assert (row.reproduction, row.off) == (told, off)


def test_reproduction_tolerance_is_the_tables() -> None:
    reference, record = record_of(plain_spec(), 1.0), record_of(plain_spec(), 1.09)
    view = view_of(record, references={record.run_id: reference}, tolerance=0.5)
    assert (view.rows[0].reproduction, view.rows[0].off) == ("OFF by 0.90 SE", True)


def test_reference_without_error_must_be_met_exactly() -> None:
    exact = record_of(plain_spec(), metrics={"fd_digits": MetricRecord(1.0, 0.0, (1.0,) * NUM_GROUPS)})
    assert reproduction(exact, exact, "fd_digits", 1.0) == ("within 0.00 SE", False)
    told, off = reproduction(record_of(plain_spec(), 1.001), exact, "fd_digits", 1.0)
    assert (told, off) == ("OFF by inf SE", True)


def test_row_without_reference_is_not_off() -> None:
    assert reproduction(record_of(plain_spec()), None, "fd_digits", 1.0) == ("", False)
    (row,) = rows_of(record_of(plain_spec()), references={"another-run": record_of(plain_spec())})
    assert (row.reproduction, row.off) == ("", False)


def test_reference_of_another_protocol_is_off() -> None:
    reference = record_of(plain_spec(), protocol=0)
    assert reproduction(record_of(plain_spec()), reference, "fd_digits", 1.0) == (
        "reference has protocol 0",
        True,
    )


def test_reference_of_another_number_of_images_is_not_compared() -> None:
    reference = record_of(dataclasses.replace(plain_spec(), seeds="0-999"), 9.0)
    assert reproduction(record_of(plain_spec(), 1.0), reference, "fd_digits", 1.0) == (
        "reference has 1000 images",
        False,
    )


# What a user can get wrong, and the whole


@pytest.mark.parametrize("position", [0, 1])
def test_missing_headline_is_told_with_what_is_there(position: int) -> None:
    records = [record_of(plain_spec()), record_of(corrected(plain_spec()))]
    only = {"is_digits": metric(9.0), "kid_digits": metric(0.1)}
    records[position] = dataclasses.replace(records[position], metrics=only)
    with pytest.raises(UserError, match=r"no metric 'fd_digits'.*it has: is_digits, kid_digits\. Run it"):
        view_of(*records)


def test_rows_of_different_metrics_are_refused() -> None:
    other = record_of(corrected(plain_spec()), metrics={"fd_digits": metric(1.0)})
    with pytest.raises(UserError, match=r"has metrics fd_digits, .* fd_digits, precision_digits; .*same"):
        view_of(record_of(plain_spec()), other)


def test_caption_says_how_it_was_measured() -> None:
    view = view_of(record_of(plain_spec()))
    assert view.title == "A made table"
    assert view.caption.startswith("Made here. 400 images a row, seeds 0-399; ")
    assert "2 standard errors" in view.caption
    assert "a CPU of ours" in view.caption


def test_all_forms_show_a_built_view() -> None:
    records = [record_of(plain_spec(), 5.0), record_of(corrected(plain_spec()), 4.0)]
    view = view_of(*records, references={record.run_id: record for record in records})
    forms: list[Callable[..., str]] = [markdown, latex, to_csv]
    for form in forms:
        text = form(view)
        for word in ("Heun", "ERK-Guid (0.5, 0.25)", "better", "no guidance"):
            assert word in text, (form, word)


def test_folder_is_read_by_run_id(tmp_path: Path) -> None:
    records = [record_of(plain_spec()), record_of(corrected(plain_spec()))]
    for index, record in enumerate(records):
        write_record(tmp_path / f"{index}.json", record)
    (tmp_path / "notes.txt").write_text("no record")
    assert read_folder(tmp_path) == {record.key: record for record in records}
    assert read_folder(tmp_path / "none") == {}
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="bad.json' is no readable record"):
        read_folder(tmp_path)


def test_a_folder_holds_records_of_one_run_by_several_protocols_and_references(tmp_path: Path) -> None:
    plain = plain_spec()
    measured = [
        dataclasses.replace(plain, metrics=dataclasses.replace(plain.metrics, **fields))
        for fields in ({}, {"protocol": "adm"}, {"reference": "another.npz"})
    ]
    for index, spec in enumerate(measured):
        write_record(tmp_path / f"{index}.json", record_of(spec, float(index)))
    for index, spec in enumerate(measured):
        (found,) = read_records([spec], str(tmp_path))
        assert found.metrics["fd_digits"].value == index
        assert references_for([spec], read_folder(tmp_path)) == {spec.run_id: found}


@pytest.mark.parametrize(
    ("field", "words"), [("protocol", "by protocol 'none', not 'adm'"), ("reference", "not 'adm'; show")]
)
def test_records_measured_otherwise_are_not_shown(tmp_path: Path, field: str, words: str) -> None:
    plain = plain_spec()
    write_record(tmp_path / "0.json", record_of(plain))
    asked = dataclasses.replace(plain, metrics=dataclasses.replace(plain.metrics, **{field: "adm"}))
    with pytest.raises(UserError, match=words):
        read_records([asked], str(tmp_path))
    if field == "protocol":
        assert references_for([asked], read_folder(tmp_path)) == {}


def test_every_corrected_row_of_the_digits_table_has_its_baseline() -> None:
    table = table_file("digits")
    specs = [run_spec([*table.base, *row.set]) for row in table.rows]
    digests = {spec.digest for spec in specs}
    assert len(digests) == len(specs) > 0
    assert all(spec.baseline.digest in digests for spec in specs)
    for first, *others in pairs(specs):  # the other solvers stand alone
        assert len(others) == (2 if first.solver.name == "heun" else 0)
    assert table.headline in METRICS
