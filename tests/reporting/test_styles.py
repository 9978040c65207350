"""All type lies inside a figure, however long its names are; a figure for a paper is a column wide."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from erk_bench.base.errors import UserError
from erk_bench.reporting.comparison_figures import forest_figure
from erk_bench.reporting.comparison_views import ComparisonRow
from erk_bench.reporting.convergence_figures import convergence_figure
from erk_bench.reporting.grid_figures import FIGURES, _rounded
from erk_bench.reporting.grid_views import Best, GridPanel, GridPoint, GridView
from erk_bench.reporting.styles import STYLES, Style, style_named, thinned, wrapped
from erk_bench.reporting.table_figures import logarithmic, nfe_figure, sample_sheet, steps_figure, to_bytes
from erk_bench.reporting.table_views import TableView
from tests.reporting.test_comparison_views import MANY, line
from tests.reporting.test_comparison_views import ONE as PAIR
from tests.reporting.test_table_views import make_view, row

LONG = "my_solver.step with_a_very_long_name_that_never_ends_or_so_it_seems, share 0.123456789, $kind$ of_it"


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def table_of(name: str, title: str) -> TableView:
    rows = tuple(
        replace(
            row("no guidance", steps, f"{name} {kind}", 10.0 / steps + kind, solver=f"{name} {kind}"),
            nfe=steps,
        )
        for steps in (4, 8, 15, 16)
        for kind in (1, 2, 3)
    )
    return TableView(title, "", rows)


def grid_of(title: str, values: tuple[str, ...] = ("0.5", "1", "2")) -> GridView:
    place = {"steps": "4"}
    points = tuple(
        GridPoint({"w": w, "schedule.num_steps": "4", "solver": s}, f"{w}{s}", 7, 0,
                  {"fd": (1.0 + i + j, 0.1)}, {"fd": (2.0, 0.1)}, {"fd": (-1.0, 0.1)},
                  "better" if i + j < 1 else "worse")
        for i, w in enumerate(values) for j, s in enumerate(("heun", "euler"))
    )  # fmt: skip
    axes = {"schedule.num_steps": ("4",), "w": values, "solver": ("heun", "euler")}
    panel = GridPanel(place, points, Best(points[0], None, None))
    return GridView(title, "", axes, "solver", "w", {"fd": "FD of a long name"}, {"fd": True}, (panel,))


def row_of(text: str) -> ComparisonRow:
    return line(text, title=text)


def sheet(style: Style, label: str, title: str) -> Figure:
    images = np.zeros((3, 8, 8, 1), dtype=np.uint8)
    return sample_sheet({label: images, "Heun": images}, title, ["1000997", "1000998", "1000999"], style)


DRAWN: dict[str, Callable[[Style, str], Figure]] = {
    "steps": lambda style, text: steps_figure(table_of(text, text), style),
    "nfe": lambda style, text: nfe_figure(table_of(text, text), style),
    "convergence": lambda style, text: convergence_figure(table_of(text, text), style),
    "curves": lambda style, text: FIGURES["curves"](grid_of(text), style),
    "heat": lambda style, text: FIGURES["heat"](grid_of(text), style),
    "parallel": lambda style, text: FIGURES["parallel"](grid_of(text), style),
    "samples": lambda style, text: sheet(style, text, text),
    "guidances": lambda style, text: steps_figure(replace(make_view(), title=text), style),
    "pair": lambda style, text: forest_figure(replace(PAIR, title=text, rows=(row_of(text),)), style),
    "forest": lambda style, text: forest_figure(
        replace(PAIR, title=text, rows=(row_of(text), row_of("other"), *MANY.rows)), style
    ),
}


def texts(figure: Figure) -> list[Text]:
    """All that is printed."""
    figure.canvas.draw()
    found = figure.findobj(Text)
    return [
        text for text in found if isinstance(text, Text) and text.get_text().strip() and text.get_visible()
    ]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("text", ["short", LONG])
@pytest.mark.slow
def test_all_type_lies_inside(kind: str, style: str, text: str) -> None:
    figure = DRAWN[kind](STYLES[style], text)
    width, height = figure.canvas.get_width_height()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # of Agg
    shown = texts(figure)
    assert shown
    for item in shown:
        box = item.get_window_extent(renderer)
        inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
        assert inside or item.get_clip_box() is not None or _off_axis(item, figure), item.get_text()


def _off_axis(item: Text, figure: Figure) -> bool:
    """Labels of ticks that lie outside the range of their axis are not drawn."""
    return any(item in [*axis.get_xticklabels(), *axis.get_yticklabels()] for axis in figure.axes)


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.slow
def test_a_figure_for_a_paper(kind: str) -> None:
    figure = DRAWN[kind](STYLES["paper"], LONG)
    assert figure.get_figwidth() == 3.25
    assert figure.get_suptitle() == ""
    assert all(item.get_fontsize() >= 7 for item in texts(figure))
    first = to_bytes(DRAWN[kind](STYLES["paper"], LONG), "pdf")
    (box,) = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+) [\d.]+ ?\]", first)
    assert float(box) == 234  # points
    assert first == to_bytes(DRAWN[kind](STYLES["paper"], LONG), "pdf")


def test_the_title_on_a_screen_is_whole() -> None:
    figure = steps_figure(table_of("Heun", LONG), STYLES["screen"])
    assert "".join(figure.get_suptitle().replace("\\$", "$").split()) == "".join(LONG.split())


def test_the_heat_map_says_what_bold_means() -> None:
    for style in STYLES.values():
        figure = FIGURES["heat"](grid_of("t"), style)
        assert "bold: better than the plain solver" in figure.get_supxlabel().replace("\n", " ")
        weights = {item.get_text(): item.get_fontweight() for item in figure.axes[0].texts}
        assert weights["1"] == "bold" and weights["2"] == "normal"


def test_text_is_broken_between_words_or_in_long_ones() -> None:
    assert wrapped("one two", 10, 8) == "one two"
    lines = wrapped("one two " + "x" * 50, 1.0, 8).split("\n")
    assert lines[0] == "one two" and "".join(lines[1:]) == "x" * 50 and len(lines) > 2
    assert wrapped("", 1.0, 8) == ""


def test_numbers_below_an_axis_do_not_touch() -> None:
    assert thinned([4, 6, 8, 10, 12, 15, 16], 2.5, STYLES["paper"]) == [4, 6, 8, 10, 12, 16]
    assert thinned([8], 2.5, STYLES["paper"]) == [8]


def test_an_unknown_style() -> None:
    with pytest.raises(UserError, match="did you mean 'paper'"):
        style_named("papper")


def test_a_narrow_logarithmic_axis_has_enough_ticks() -> None:
    """1, 2 and 5 alone would leave one between 541 and 1624."""
    _, axis = plt.subplots()
    values = [541.0, 657.0, 1063.0, 1624.0]
    axis.plot(values)
    logarithmic(axis, values)
    low, high = axis.get_ylim()
    shown = [tick for tick in axis.get_yticks() if low <= tick <= high]
    assert shown == [600, 700, 800, 900, 1000, 1200, 1500]


def test_cells_of_a_grid_have_no_exponent() -> None:
    assert [_rounded(value, 3) for value in (1087.6, 2936.2, 0.8431, 87.25)] == [
        "1088",
        "2936",
        "0.843",
        "87.2",
    ]
