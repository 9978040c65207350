"""No two series of a figure look the same, and the colour-blind can tell their colours."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from erk_bench.commands.compose_studies import table_file
from erk_bench.reporting.series import COLORS, MARKERS, looks, series_names
from erk_bench.reporting.table_figures import draw
from erk_bench.reporting.table_views import FIGURES, TableRow, TableView
from erk_bench.studies.records import read_folder
from erk_bench.studies.table import build_view
from erk_bench.studies.table_file import RowSpec
from tests.reporting.test_table_views import row

RECORDS = Path(__file__).parents[2] / "results" / "records"

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}


def lab(color: str, blindness: np.ndarray) -> np.ndarray:
    """CIE Lab of a colour as it is seen."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(blindness @ linear, 0, 1)
    xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    ratio = (xyz @ seen) / np.array([0.95047, 1.0, 1.08883])
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colours_differ_to_every_eye(blindness: str) -> None:
    """A difference of 2.3 is just noticeable; that of red and green of equal lightness falls below 10."""
    seen = [lab(color, BLINDNESS[blindness]) for color in COLORS]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert nearest > 12


@pytest.mark.parametrize("count", [1, 10, 24, 70, 100])
@pytest.mark.parametrize("families", [1, 3, 7, 10, 24])
def test_no_two_series_share_colour_and_marker(count: int, families: int) -> None:
    names = [f"s{number}" for number in range(count)]
    for made in (looks(names), looks(names, {name: str(i % families) for i, name in enumerate(names)})):
        assert len({(look.color, look.marker) for look in made.values()}) == count
    assert len({look.color for look in looks(names).values()}) == min(count, len(COLORS))


def test_a_family_has_one_colour() -> None:
    made = looks(["Heun", "ERK-Guid on Heun", "DEIS"], {"Heun": "h", "ERK-Guid on Heun": "h", "DEIS": "d"})
    assert made["Heun"].color == made["ERK-Guid on Heun"].color != made["DEIS"].color
    assert [look.line for look in made.values()] == ["-", "--", "-"]
    assert "*" not in MARKERS  # the best cell of a grid


def names_of(*rows: TableRow) -> list[str]:
    return series_names(rows, lambda each: each.steps)


def test_the_whole_name_is_the_series() -> None:
    """Options make series of their own; tuned settings do only where a step count has several of them."""
    options = [
        row("no guidance", steps, method, 1.0, solver=method)
        for steps in (4, 8)
        for method in ("my_solver.step, share 0.5", "my_solver.step, share 0.9")
    ]
    assert names_of(*options) == [each.method for each in options]
    tuned = [row("no guidance", 4, "ERK-Guid (1, 0)", 1.0), row("no guidance", 8, "ERK-Guid (2, 0)", 1.0)]
    assert names_of(*tuned) == ["ERK-Guid", "ERK-Guid"]
    both = [*tuned, row("no guidance", 8, "ERK-Guid (3, 0)", 1.0)]
    assert names_of(*both) == ["ERK-Guid (1, 0)", "ERK-Guid (2, 0)", "ERK-Guid (3, 0)"]
    guided = [tuned[0], replace(both[2], steps=4, guidance="CFG 2")]
    assert names_of(*guided) == ["ERK-Guid", "ERK-Guid"]  # in two panels


def drawn_looks(view: TableView, kind: str) -> set[tuple[str, str, str]]:
    """(series, colour, marker) over all panels."""
    figure = draw(view, kind)
    return {
        (str(each.get_label()), str(each.lines[0].get_color()), str(each.lines[0].get_marker()))
        for axis in figure.axes
        for each in axis.containers
    }


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.results
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("digits", 2),
        ("digits-corrections", 5),
        ("digits-table4", 15),
        ("digits-angle", 18),
        ("convergence", 10),
    ],
)
@pytest.mark.slow
def test_series_of_the_committed_tables(name: str, count: int) -> None:
    table = table_file(name)
    found = read_folder(RECORDS / name)
    records = sorted(found.values(), key=lambda record: record.run_id)
    view = build_view(table, [RowSpec(())] * len(records), [[record] for record in records], {})
    found_looks = drawn_looks(view, table.figure)
    assert len(found_looks) >= count
    assert len({(color, marker) for _, color, marker in found_looks}) == len(found_looks)
    assert len({label for label, _, _ in found_looks}) == len(found_looks)


@pytest.mark.parametrize("kind", [kind for kind, made in FIGURES.items() if made])
def test_24_series(kind: str) -> None:
    names = [f"my_solver.step, share {number}" for number in range(24)]
    rows = [row("no guidance", steps, name, 1.0, solver=name) for name in names for steps in (4, 8)]
    view = TableView("many", "", tuple(rows))
    found = drawn_looks(view, kind)
    assert len(found) == 24
    assert len({(color, marker) for _, color, marker in found}) == 24
    legend = draw(view, kind).legends[0]
    shown = [text.get_text().replace("\n", " ").partition(": slope")[0] for text in legend.get_texts()]
    assert [text for text in shown if text != "Pareto front"] == names
