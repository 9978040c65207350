"""Comparisons as terminal, Markdown, LaTeX, CSV and forest plot."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

from erk_bench.reporting.comparison_figures import MOST_ROWS, WIDTH_95, forest_figure
from erk_bench.reporting.comparison_views import (
    ComparisonRow,
    ComparisonView,
    columns_of,
    latex,
    markdown,
    print_comparison,
    to_csv,
)
from erk_bench.reporting.series import BLUE, VERMILLION

NASTY = "a_b|c&d $e$ [red]f[/] {g}\nÜ 中 \\h%"


def line(
    record: str = "mine",
    metric: str = "fd",
    difference: tuple[float, float] = (-0.5, 0.1),
    verdict: str = "better",
    **changes: object,
) -> ComparisonRow:
    row = ComparisonRow(
        metric=metric, title=metric.upper(), lower=metric != "recall", record=record, baseline="base",
        value=(1.0 + difference[0], 0.2), base_value=(1.0, 0.2), difference=difference, p=0.001, p_holm=0.002,
        verdict=verdict, lack="", run_id="run-1", base_run_id="run-0", seeds="0-9", base_seeds="0-9",
        file="a.json", base_file="b.json",
    )  # fmt: skip
    return replace(row, **changes)  # type: ignore[arg-type]  # names of its fields


def view_of(*rows: ComparisonRow, **changes: object) -> ComparisonView:
    return replace(ComparisonView("mine against base", "All of it is made up.", rows), **changes)  # type: ignore[arg-type]


ONE = view_of(line(), line(metric="recall", difference=(-0.1, 0.2), verdict="not resolved"))
MANY = view_of(*(line(f"r{n}", metric) for metric in ("fd", "recall") for n in range(5)))


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def printed(view: ComparisonView, width: int = 170) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_comparison(view, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_columns_that_say_the_same_everywhere_are_left_out() -> None:
    keys = [column.key for column in columns_of(ONE)]
    assert keys == ["metric", "value", "base_value", "difference", "change", "z", "p", "p_holm", "verdict"]
    assert [column.key for column in columns_of(MANY)][:2] == ["metric", "record"]
    pairs = view_of(line("a"), line("b", baseline="other", lack="other seeds"))
    assert [column.key for column in columns_of(pairs)][1:3] == ["record", "baseline"]
    assert columns_of(pairs)[-1].cell(pairs.rows[1]) == "unpaired: other seeds"
    assert "p_holm" not in [column.key for column in columns_of(view_of(line()))]


def test_a_terminal_shows_what_matters() -> None:
    text = printed(ONE)
    assert "FD ↓" in text and "RECALL ↑" in text and "-0.50 ± 0.10" in text and "-50.0%" in text
    assert "better" in text and "not resolved" in text and "-5.0" in text and "made up" in text
    narrow = printed(MANY, width=60)
    assert max(map(len, narrow.splitlines())) <= 60
    assert "better" in narrow and "Too wide for this" in narrow
    assert "FD: 5 better" in narrow and "5 better" not in text


def test_a_narrow_terminal_still_says_what_is_not_paired() -> None:
    long = "a record of a name that takes most of a line"
    text = printed(view_of(line(long, lack="other seeds"), line("b", lack="other seeds")), width=80)
    assert "unpaired:" in text and max(map(len, text.splitlines())) <= 80


def test_notes_stand_below() -> None:
    assert "note: that is so" in printed(view_of(line(), notes=("that is so",)))
    assert "\nNote: that is so.\n" in markdown(view_of(line(), notes=("that is so",)))
    assert "That is so." in latex(view_of(line(), notes=("that is so",)))


@pytest.mark.parametrize(
    ("changes", "cell", "text"),
    [
        ({"p": 0.00001}, "p", "<0.0001"),
        ({"p": 0.0123}, "p", "0.012"),
        ({"p": math.nan}, "p", "–"),
        ({"difference": (0.0, 0.0)}, "difference", "0"),
        ({"difference": (2e-8, 1e-8)}, "difference", "+2.0e-08 ± 1.0e-08"),
        ({"difference": (0.2, 0.0)}, "z", "∞"),
        ({"difference": (-0.2, 0.0)}, "z", "−∞"),
        ({"difference": (0.0, 0.0)}, "z", "+0.0"),
        ({"difference": (math.nan, 0.1)}, "z", "–"),
        ({"difference": (math.nan, math.nan)}, "difference", "–"),
        ({"base_value": (0.1, 0.2)}, "change", "–"),  # near zero, a ratio says nothing
        ({"base_value": (-1.0, 0.2)}, "change", "–"),
        ({"base_value": (math.nan, 0.2)}, "change", "–"),
    ],
)
def test_cells(changes: dict[str, object], cell: str, text: str) -> None:
    row = line(**changes)  # type: ignore[arg-type]
    (column,) = [column for column in columns_of(view_of(row)) if column.key == cell]
    assert column.cell(row) == text


def test_markdown_keeps_its_cells() -> None:
    view = view_of(line(NASTY), line("other"), title=NASTY.replace("\n", " "))
    table = [text for text in markdown(view).splitlines() if text.startswith("|")]
    assert len(table) == 4 and len({len(re.findall(r"(?<!\\)\|", text)) for text in table}) == 1
    assert r"a_b\|c&d $e$ [red]f[/] {g} Ü" in table[2]


def test_a_terminal_takes_no_markup_from_names() -> None:
    assert "[red]f[/]" in printed(view_of(line(NASTY), line("other"), title="[red]x[/]"))
    assert "[red]x[/]" in printed(view_of(line(), title="[red]x[/]"))


def test_latex_has_every_row_and_bold_verdicts() -> None:
    text = latex(MANY)
    body = [each for each in text.splitlines() if each.endswith(r" \\")]
    assert len(body) == 1 + len(MANY.rows) and text.count(r"\textbf{better}") == len(MANY.rows)
    assert text.count(r"\midrule") == 2 and r"\label{tab:compare}" in text and r"\toprule" in text
    assert r"\textbf" not in latex(view_of(line(verdict="not resolved")))
    nasty = latex(view_of(line(NASTY), line("other")))
    assert nasty.isascii() and r"a\_b$|$c\&d \$e\$ {[}red{]}" in nasty


def test_long_tables_go_over_pages() -> None:
    many = view_of(*(line(f"r{n}") for n in range(100)))
    text = latex(many)
    assert text.count(r"\begin{table*}") == 3 and text.count(r"\caption") == 1
    assert all(f" r{n} " in text for n in range(100))


def test_csv_has_full_precision() -> None:
    row = line(NASTY, difference=(-1 / 3, 0.1), p=math.nan, p_holm=math.nan, lack="other seeds")
    (found,) = csv.DictReader(io.StringIO(to_csv(view_of(row))))
    assert found["record"] == NASTY and float(found["difference"]) == -1 / 3
    assert float(found["z"]) == (-1 / 3) / 0.1 and found["p"] == found["p_holm"] == ""
    assert found["pairing"] == "unpaired: other seeds" and found["better"] == "lower"
    assert (found["run_id"], found["baseline_file"]) == ("run-1", "b.json")


# The forest plot


def texts_of(figure: Figure) -> list[str]:
    return [each.get_text() for each in figure.findobj(Text) if each.get_text().strip()]


def test_a_line_a_metric_where_there_is_one_pair() -> None:
    figure = forest_figure(ONE)
    first, second = figure.axes
    intervals = [
        line.get_xdata() for axis in (first, second) for line in axis.lines if len(line.get_xdata()) == 2
    ]
    spans = [tuple(float(x) for x in xs) for xs in intervals if xs[0] != xs[1]]
    assert spans == [pytest.approx((-0.5 - WIDTH_95 * 0.1, -0.5 + WIDTH_95 * 0.1)),
                     pytest.approx((-0.1 - WIDTH_95 * 0.2, -0.1 + WIDTH_95 * 0.2))]  # fmt: skip
    shown = texts_of(figure)
    assert "FD (lower is better)" in shown and "-0.50 ± 0.10  better" in shown
    assert "-0.10 ± 0.20" in shown and "mine against base" in shown
    assert first.get_xlim()[1] > 0 > second.get_xlim()[0]


def test_colours_say_the_verdict() -> None:
    rows = (line("a"), line("b", difference=(0.5, 0.1), verdict="worse"),
            line("c", difference=(0.1, 0.1), verdict="not resolved"))  # fmt: skip
    (axis,) = forest_figure(view_of(*rows)).axes
    marks = [each for each in axis.lines if each.get_marker() == "o"]
    assert [to_hex(each.get_color()).upper() for each in marks[:2]] == [BLUE, VERMILLION]
    assert [each.get_markerfacecolor() for each in marks][2] == "w"
    assert marks[0].get_markerfacecolor() == BLUE


def test_far_lines_are_arrows_and_what_is_no_number_has_no_mark() -> None:
    rows = [line(f"r{n}", difference=(-0.1 * n, 0.01)) for n in range(1, 6)]
    rows += [line("far", difference=(50.0, 1.0), verdict="worse"),
             line("none", difference=(math.nan, math.nan), verdict="undefined")]  # fmt: skip
    figure = forest_figure(view_of(*rows))
    (axis,) = figure.axes
    marks = [each.get_marker() for each in axis.lines if each.get_marker() != "None"]
    assert marks == ["o"] * 5 + [">"] and axis.get_xlim()[1] < 5
    assert any("arrow: beyond the axis" in text for text in texts_of(figure))
    assert "–  undefined" in texts_of(figure)


def test_many_lines_are_cut_and_counted() -> None:
    figure = forest_figure(view_of(*(line(f"r{n}") for n in range(MOST_ROWS + 7))))
    shown = " ".join(" ".join(texts_of(figure)).split())
    assert "7 more lines a metric are in the table" in shown and f"r{MOST_ROWS}" not in shown


def test_a_record_has_one_line_in_all_panels() -> None:
    """Also where another lacks the metric, so that the names at the left hold for every panel."""
    view = view_of(line("a"), line("b"), line("c"), line("b", "recall"), line("c", "recall"))
    first, second = forest_figure(view).axes
    assert [text.get_text() for text in first.get_yticklabels()] == ["a", "b", "c"]
    marks = [float(each.get_ydata()[0]) for each in second.lines if each.get_marker() == "o"]  # type: ignore[index]
    assert marks == [1, 2] and first.get_ylim() == second.get_ylim()


def test_equal_records_have_an_axis() -> None:
    figure = forest_figure(view_of(line(difference=(0.0, 0.0), verdict="equal")))
    assert figure.axes[0].get_xlim() == (-1.0, 1.0) and "0  equal" in texts_of(figure)
