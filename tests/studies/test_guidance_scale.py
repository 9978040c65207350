"""Guidance methods beside classifier-free guidance of equal effective scale."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import numpy as np
import pytest

from erk_bench.commands.compose import run_spec
from erk_bench.reporting.scale_figures import scale_figure
from erk_bench.runs.device import Place
from erk_bench.runs.records import MetricRecord
from erk_bench.spec import RunSpec
from erk_bench.studies.guidance_scale import ScaledRow, at_equal_scale, measured_scale, scale_markdown
from tests.studies.test_published import records


@cache
def spec_of(*settings: str) -> RunSpec:
    return run_spec(["seeds=0-399", "schedule.num_steps=8", *settings])


def row(method: str, value: float, scale: float, *settings: str, wiggle: int = 0) -> ScaledRow:
    """wiggle: replicates of another pattern, so that differences have an error."""
    around = np.roll(np.array([-1.0, 1.0] * 10), wiggle) * 0.1 / math.sqrt(19)
    metrics = {"fd_digits": MetricRecord(value, 0.1, tuple(value + around))}
    return ScaledRow(method, spec_of(*settings), dataclasses.replace(records(0.0)[0], metrics=metrics), scale)


def weighed(method: str, value: float, scale: float, weight: float, *more: str, wiggle: int = 0) -> ScaledRow:
    return row(method, value, scale, f"guidance={method}", f"guidance.weight={weight}", *more, wiggle=wiggle)


ROWS = [
    row("none", 1.0, 1.0, "guidance=none"),
    weighed("cfg", 2.0, 1.5, 1.5),
    weighed("cfg", 4.0, 2.0, 2.0),
    weighed("apg", 1.9, 1.25, 1.5),
    weighed("apg", 2.0, 1.75, 2.0, wiggle=1),
    weighed("apg", 9.0, 3.0, 3.0),
    weighed("cfg", 1.0, 1.25, 1.5, "guidance.interval=[0.2,2]"),
    weighed("apg", 0.5, 1.25, 1.25, "solver=euler"),
]


def test_classifier_free_guidance_is_interpolated_between_its_rows() -> None:
    """Value by value, so that differences are paired. Each solver is compared with its own rows."""
    found = [at_equal_scale(each, ROWS, "fd_digits") for each in ROWS]
    assert found[:3] == [None] * 3  # classifier-free guidance itself
    assert found[3] == (pytest.approx(1.9 - 1.5), pytest.approx(0.0, abs=1e-12))
    assert found[4] == (pytest.approx(2.0 - 3.0), pytest.approx(0.2))
    assert found[5] is None  # beyond its largest weight
    assert found[6] == (pytest.approx(1.0 - 1.5), pytest.approx(0.0, abs=1e-12))
    assert found[7] is None  # no row of that solver


def test_the_text_marks_the_best_and_counts_verdicts() -> None:
    text = scale_markdown("Made", ROWS, "fd_digits", 50, "a command")
    assert "| apg | 1.25 | 0.50 ± 0.10 | 1, 1, 0 |" in text
    assert "| APG 2 | 1.75 | 2.00 ± 0.10 | -1.00 ± 0.20, better |" in text
    assert "| CFG 1.5 in (0.2, 2] | 1.25 | **1.00 ± 0.10** |" in text
    assert "| APG 3 | 3 | 9.00 ± 0.10 | – |" in text
    assert "**0.50 ± 0.10**" in text and "and over 50 seeds" in text


def test_the_scale_of_a_run_is_measured_on_its_first_seeds() -> None:
    for settings, expected in (
        (["guidance=none"], 1.0),
        (["guidance=higs", "guidance.weight=1"], 1.0),
        (["guidance=cfg", "guidance.weight=1.5"], 1.5),
        (["guidance=autoguidance", "guidance.weight=1.5"], 1.5),
    ):
        spec = run_spec(["seeds=0-9", "schedule.num_steps=3", "device=cpu", *settings])
        assert measured_scale(spec, Place.of(spec), 4) == pytest.approx(expected, rel=1e-4)
    apg = run_spec(["seeds=0-9", "schedule.num_steps=3", "device=cpu", "guidance=apg", "guidance.weight=1.5"])
    assert 1 < measured_scale(apg, Place.of(apg), 4) < 1.5


def test_the_figure_has_a_line_a_method() -> None:
    figure = scale_figure(
        "Made", "FD-digits", {"CFG": [(2.0, (4.0, 0.1)), (1.0, (1.0, 0.1))], "APG": [(1.2, (1.0, 0.1))]}
    )
    (axis,) = figure.axes
    assert [list(line.get_xdata()) for line in axis.lines] == [[1.0, 2.0], [1.2]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["CFG", "APG"]
