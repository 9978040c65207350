"""The analysis' pictures: axes with labels, numbers beside them, the same bytes on every draw."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

import erk_bench.studies.analysis.figures as figures_module
from erk_bench.base.config_files import config_folder
from erk_bench.studies.analysis.figures import FIGURES, draw_all
from erk_bench.studies.analysis.measure import SIGMA_MAX, MeasuredSteps, levels, measure
from erk_bench.studies.analysis.mixture import tree


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@functools.cache
def few() -> MeasuredSteps:
    start = tree("A").sample(30, SIGMA_MAX, torch.Generator().manual_seed(1))
    return measure(tree("A"), start, levels(12), substeps=2)


@pytest.mark.parametrize("name", FIGURES)
def test_every_axis_says_what_it_shows(name: str) -> None:
    drawn = FIGURES[name](few())
    panels = [axis for axis in drawn.figure.axes if axis.get_title()]
    assert panels and all(axis.get_xlabel() for axis in panels)
    assert panels[0].get_ylabel() and any(axis.get_legend() for axis in panels)
    lengths = {len(column) for column in drawn.columns.values()}
    assert len(lengths) == 1 and lengths.pop() > 5


@pytest.mark.slow
def test_pictures_and_numbers_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the same bytes; the CSV has the columns' names."""
    monkeypatch.setattr(figures_module, "measure", lambda *_: few())
    draw_all(tmp_path / "a", ["figure2", "proposition1"])
    draw_all(tmp_path / "b", ["figure2", "proposition1"])
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(
        f"{name}.{form}" for name in ("figure2", "proposition1") for form in ("csv", "png", "svg")
    )
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.results
def test_committed_numbers_are_those_of_the_figures() -> None:
    """results/figures holds what `make figures` draws: as many steps, and the header of each."""
    folder = config_folder().parent / "results/figures"
    for name, drawn in ((name, FIGURES[name](few())) for name in FIGURES):
        rows = list(csv.reader((folder / f"{name}.csv").open()))
        assert rows[0] == list(drawn.columns)
        assert (folder / f"{name}.png").is_file() and (folder / f"{name}.svg").is_file()
    assert len((folder / "figure3.csv").read_text().splitlines()) == 1 + 160 * 31
