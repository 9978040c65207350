"""Tables in their four forms and the figures, from rows made here."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer
from PIL import Image
from rich.console import Console

from erk_bench.reporting.latex import latex
from erk_bench.reporting.table_csv import to_csv
from erk_bench.reporting.table_figures import nfe_figure, pareto_front, sample_sheet, steps_figure, to_bytes
from erk_bench.reporting.table_views import (
    DASH,
    Estimate,
    TableRow,
    TableView,
    column_keys,
    markdown,
    print_table,
    rounded,
)

GUIDANCES = ("no guidance", "CFG 1.25", "autoguidance 1.25")
ERK_GUID = "ERK-Guid (0.75, 0.3)"
HEADERS = (
    "guidance", "steps", "method", "NFE", "FD-digits", "Δ FD-digits", "verdict", "precision", "IS_10%",
    "s / 1000", "overhead", "reproduced",
)  # fmt: skip


def row(guidance: str, steps: int, method: str, value: float, **other: object) -> TableRow:
    """A row of which `other` fields differ from a plain solver's."""
    fields: dict[str, object] = {
        "difference": None,
        "verdict": "",
        "seconds_per_1000": 10 / 3,
        "overhead": None,
        "reproduction": "within 0.00 SE",
        "off": False,
    }
    metrics: dict[str, tuple[str, Estimate]] = {
        "fd_digits": ("FD-digits", (value, value / 90)),
        "precision_digits": ("precision", (0.9 + value / 1e3, 0.0123456789)),
        "is_digits": ("IS_10%", (9.1, 0.05)),
    }
    return TableRow(
        steps=steps,
        guidance=guidance,
        method=method,
        nfe=2 * steps - 1,
        nfe_guide=0 if guidance == "no guidance" else 2 * steps - 1,
        metrics=metrics,
        **(fields | other),  # type: ignore[arg-type]  # the fields of a TableRow
    )


def make_view() -> TableView:
    rows = []
    for index, guidance in enumerate(GUIDANCES):
        for steps in (4, 8, 32):
            value = (index + 1) * 40 / steps + 1 / 3
            rows.append(row(guidance, steps, "Heun", value))
            rows.append(
                row(
                    guidance,
                    steps,
                    ERK_GUID,
                    0.8 * value,
                    difference=(-0.2 * value, 0.01 * value),
                    verdict="better",
                    overhead=(0.0125, 0.004),
                )
            )
    rows[-1] = row(
        GUIDANCES[-1], 32, ERK_GUID, 3.4, difference=(0.7, 0.5), verdict="not resolved",
        seconds_per_1000=None, reproduction="OFF by 4.00 SE", off=True,
    )  # fmt: skip
    return TableView("The table: 100% digits_8", "All of it is_made up.", tuple(rows))


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.parametrize(
    ("estimate", "sign", "expected"),
    [
        ((1.23456, 0.0456), "", "1.235 ± 0.046"),
        ((1.23456, 0.456), "", "1.23 ± 0.46"),
        ((123.456, 4.56), "", "123.5 ± 4.6"),
        ((123.456, 45.6), "", "123 ± 46"),
        ((123.456, 456.0), "", "123 ± 456"),
        ((1.23456, 0.0961), "", "1.23 ± 0.10"),
        ((0.5, 0.02), "+", "+0.500 ± 0.020"),
        ((-0.5, 0.02), "+", "-0.500 ± 0.020"),
        ((-0.5, 0.02), "", "-0.500 ± 0.020"),
        ((1.5e-5, 1.25e-6), "", "0.000015 ± 0.000001"),
        ((2.0, 0.0), "", "2.000000 ± 0.000000"),
    ],
)
def test_rounded_to_two_figures_of_the_error(estimate: Estimate, sign: str, expected: str) -> None:
    assert rounded(estimate, sign) == expected


def test_markdown_has_every_row_and_column() -> None:
    view = make_view()
    lines = markdown(view).splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert table[0] == list(HEADERS)
    assert table[1] == ["---"] * len(HEADERS)
    assert len(table) == 2 + len(view.rows)
    assert lines[0] == "# The table: 100% digits_8"
    assert lines[-1] == view.caption
    assert table[2] == [
        "no guidance", "4", "Heun", "7", "10.33 ± 0.11", DASH, DASH, "0.910 ± 0.012", "9.100 ± 0.050",
        "3.3", DASH, "within 0.00 SE",
    ]  # fmt: skip
    assert table[9] == [
        "CFG 1.25", "4", ERK_GUID, "7+7", "16.27 ± 0.18", "-4.07 ± 0.20", "better", "0.916 ± 0.012",
        "9.100 ± 0.050", "3.3", "+1.2% ± 0.4%", "within 0.00 SE",
    ]  # fmt: skip
    assert table[-1][5:] == [
        "+0.70 ± 0.50", "not resolved", "0.903 ± 0.012", "9.100 ± 0.050", DASH, DASH,
        "OFF by 4.00 SE",
    ]  # fmt: skip


def test_csv_parses_back_to_the_full_values() -> None:
    view = make_view()
    rows = list(csv.DictReader(io.StringIO(to_csv(view))))
    assert len(rows) == len(view.rows)
    for found, expected in zip(rows, view.rows, strict=True):
        assert (found["guidance"], found["method"]) == (expected.guidance, expected.method)
        assert (int(found["steps"]), int(found["nfe"]), int(found["nfe_guide"])) == (
            expected.steps, expected.nfe, expected.nfe_guide,
        )  # fmt: skip
        for name, (_, (value, error)) in expected.metrics.items():
            assert (float(found[name]), float(found[f"{name}_se"])) == (value, error)
        difference = (found["difference"], found["difference_se"])
        if expected.difference is None:
            assert difference == ("", "")
        else:
            assert tuple(map(float, difference)) == expected.difference
        value = expected.seconds_per_1000
        assert found["seconds_per_1000"] == "" if value is None else float(found["seconds_per_1000"]) == value
        overhead = (found["overhead"], found["overhead_se"])
        if expected.overhead is None:
            assert overhead == ("", "")
        else:
            assert tuple(map(float, overhead)) == expected.overhead
        assert (found["verdict"], found["reproduced"]) == (expected.verdict, expected.reproduction)


def test_chosen_columns_are_shown_everywhere_in_their_order() -> None:
    view = replace(make_view(), chosen=("method", "nfe", "is_digits", "difference", "guidance"))
    wanted = ["method", "NFE", "IS_10%", "Δ FD-digits", "guidance"]
    assert markdown(view).splitlines()[2] == "| " + " | ".join(wanted) + " |"
    assert to_csv(view).splitlines()[0] == (
        "method,nfe,nfe_guide,is_digits,is_digits_se,difference,difference_se,guidance"
    )
    assert shown_headers(terminal(view, 200)) == wanted
    header = next(line for line in latex(view).splitlines() if line.endswith(r"\\"))
    assert header == r"method & NFE & IS\_10\% & $\Delta$ FD-digits & guidance \\"


def test_every_key_of_a_column_can_be_chosen() -> None:
    """Also those that no row has a value for."""
    view = make_view()
    keys = column_keys(list(view.rows[0].metrics))
    lines = markdown(replace(view, chosen=tuple(keys))).splitlines()
    assert lines[4].count(" | ") == len(keys) - 1


def test_markdown_keeps_a_bar_in_a_name_inside_its_cell() -> None:
    line = markdown(TableView("t", "c", (row("no guidance", 4, "a|b\nc", 1.0),))).splitlines()[4]
    assert r"| a\|b c |" in line


def terminal(view: TableView, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        print_table(view, console)
    return capture.get()


def shown_headers(text: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith("┃") and "guidance" in line)
    return [cell.strip() for cell in line.strip("┃").split("┃")]


@pytest.mark.parametrize("width", [80, 100, 120, 150, 200])
def test_terminal_cuts_nothing(width: int) -> None:
    view = make_view()
    text = terminal(view, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    headers = shown_headers(text)
    for header in ("guidance", "steps", "method", "FD-digits"):
        assert header in headers
    for each in view.rows:
        line = next(
            line for line in text.splitlines()
            if f"│ {each.guidance} " in line and f" {each.steps} │ {each.method} " in line
        )  # fmt: skip
        assert rounded(each.metrics["fd_digits"][1]) in line


def test_terminal_of_100_columns_has_the_headline_and_its_difference() -> None:
    view = make_view()
    text = terminal(view, 100)
    assert {"FD-digits", "Δ FD-digits", "verdict"} <= set(shown_headers(text))
    for each in view.rows:
        assert rounded(each.metrics["fd_digits"][1]) in text
        if each.difference:
            assert rounded(each.difference, "+") in text


def test_narrow_terminal_names_the_columns_it_lacks() -> None:
    text = " ".join(terminal(make_view(), 80).split())
    assert "NFE" in text.partition("Too wide for this terminal: ")[2]
    for width in (150, 200):
        text = terminal(make_view(), width)
        assert shown_headers(text) == [name for name in HEADERS if name not in ("precision", "IS_10%")]
        assert "Too wide" not in text


def test_terminal_colors_verdicts_and_rows_that_are_off() -> None:
    console = Console(width=150, file=io.StringIO(), force_terminal=True, color_system="standard")
    with console.capture() as capture:
        print_table(make_view(), console)
    lines = capture.get().splitlines()
    (off,) = (line for line in lines if "OFF" in line)
    assert "\x1b[1;31m" in off  # bold red
    assert sum("\x1b[32m" in line and "better" in line for line in lines) == 8  # green
    assert not any("\x1b[3" in line for line in lines if "Heun" in line)


# Figures


def test_steps_figure_has_a_panel_a_guidance_with_error_bars() -> None:
    view = make_view()
    figure = steps_figure(view)
    assert [axis.get_title() for axis in figure.axes] == list(GUIDANCES)
    for axis in figure.axes:
        assert len(axis.containers) == 2  # one a method
        for container, method in zip(axis.containers, ("Heun", ERK_GUID), strict=True):
            rows = [row for row in view.rows if row.guidance == axis.get_title() and row.method == method]
            assert isinstance(container, ErrorbarContainer)
            (line, caps, (bars,)) = container.lines
            assert line is not None
            values = [row.metrics["fd_digits"][1] for row in rows]
            assert np.asarray(line.get_xdata()).tolist() == [4, 8, 32]
            assert np.asarray(line.get_ydata()).tolist() == [value for value, _ in values]
            assert len(caps) == 2
            assert isinstance(bars, LineCollection)
            ends = [tuple(segment[:, 1]) for segment in bars.get_segments()]
            assert np.allclose(ends, [(value - error, value + error) for value, error in values])
            assert container.get_label() == method.partition(" ")[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Heun", "ERK-Guid"]
    assert figure.axes[0].get_ylabel() == "FD-digits (lower is better)"


def test_steps_figure_draws_every_method_and_says_which_values_are_better() -> None:
    rows = tuple(row("no guidance", 8, f"method{index} x", 5.0 + index) for index in range(6))
    figure = steps_figure(TableView("many", "", rows, lower=False))
    assert len(figure.axes[0].containers) == 6
    assert figure.axes[0].get_ylabel() == "FD-digits (higher is better)"


def test_nfe_figure_has_a_color_a_series_and_the_pareto_front() -> None:
    """Cost against quality: corrected rows are dashed, the front runs below all."""
    rows = []
    for solver, factor, cost in (("Heun", 4.0, 2), ("DEIS", 1.0, 1)):
        for steps in (3, 5, 9):
            plain = row("no guidance", steps, solver, factor * 10 / steps, solver=solver)
            nfe = cost * (steps - 1)
            rows.append(replace(plain, nfe=nfe))
            better = row(
                "no guidance", steps, f"ERK-Guid on {solver} (1, 0)", factor * 8 / steps, solver=solver
            )
            rows.append(replace(better, nfe=nfe))
    view = TableView("few", "", tuple(rows))
    figure = nfe_figure(view)
    axis, crowded = figure.axes
    lines = {container.get_label(): container.lines[0] for container in axis.containers}
    assert list(lines) == ["Heun", "ERK-Guid on Heun", "DEIS", "ERK-Guid on DEIS"]
    assert len({line.get_color() for line in lines.values()}) == 4
    assert [line.get_linestyle() for line in lines.values()] == ["-", "--", "-", "--"]
    assert np.asarray(lines["ERK-Guid on Heun"].get_xdata()).tolist() == pytest.approx([4, 8, 16], rel=0.02)
    assert axis.get_xscale() == axis.get_yscale() == "log"
    front = pareto_front(view.rows)
    assert [(each.method, each.cost) for each in front] == [
        ("ERK-Guid on DEIS (1, 0)", cost) for cost in (2, 4, 8)
    ]
    assert [each.cost for each in pareto_front(view.rows, lower=False)] == [2, 4]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Pareto front", *lines]
    # From 8 evaluations on every row stands alone.
    at = [float(np.asarray(each.lines[0].get_xdata())[0]) for each in crowded.containers]
    assert len(at) == 6 and np.diff(sorted(at)).min() > 0.1
    assert [tick.get_text() for tick in crowded.get_xticklabels()] == ["8", "16"]


def test_nfe_figure_shows_the_solver_error_where_it_was_measured() -> None:
    """Below the headline, against the same evaluations; lower is better whatever the headline."""
    rows = [
        replace(each, metrics={**each.metrics, "solver_error": ("solver error", (1 / each.cost, 0.001))})
        for each in (row("no guidance", steps, "Heun", 10 / steps, solver="Heun") for steps in (4, 8, 16))
    ]
    over, below = nfe_figure(TableView("few", "", tuple(rows), lower=False)).axes
    assert below.get_ylabel() == "solver error (lower is better)"
    (line,) = (each.lines[0] for each in below.containers)
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([1 / each.cost for each in rows])
    assert np.asarray(over.containers[0].lines[0].get_ydata()).tolist() == pytest.approx([2.5, 1.25, 0.625])


def test_many_series_have_a_color_a_solver() -> None:
    rows = [
        row("no guidance", 4, method, 1.0, solver=solver)
        for solver in ("Heun", "Euler", "DEIS", "iPNDM")
        for method in (solver, f"ERK-Guid on {solver} (1, 0)")
    ]
    (axis,) = nfe_figure(TableView("many", "", tuple(rows))).axes
    colors = {str(each.get_label()): each.lines[0].get_color() for each in axis.containers}
    assert len(colors) == 8 and len(set(colors.values())) == 4
    assert colors["DEIS"] == colors["ERK-Guid on DEIS"]


def test_nfe_figure_draws_no_line_through_rows_of_one_cost() -> None:
    rows = tuple(row("no guidance", 4, "Heun", value, solver="Heun") for value in (1.0, 2.0))
    (axis,) = nfe_figure(TableView("one cost", "", rows)).axes
    assert axis.containers[0].lines[0].get_linestyle() == "None"


def test_pictures_are_the_same_on_every_draw() -> None:
    view = make_view()
    for form in ("png", "svg"):
        first, second = (to_bytes(steps_figure(view), form) for _ in range(2))
        assert first == second
    assert to_bytes(steps_figure(TableView("another title", "", view.rows)), "svg") != second


def test_pictures_are_png_and_svg_files() -> None:
    plt.close("all")  # those of other tests
    png = to_bytes(steps_figure(make_view()), "png")
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    assert picture.size[1] == 540 and 1620 < picture.size[0] < 1900  # 150 dots an inch, and the legend
    assert "Software" not in picture.info
    svg = to_bytes(steps_figure(make_view()), "svg").decode()
    assert svg.startswith("<?xml")
    assert "<svg" in svg
    assert "<dc:date>" not in svg
    assert not plt.get_fignums()  # closed


def test_sample_sheet_has_an_axis_an_image() -> None:
    images = np.arange(5 * 8 * 8, dtype=np.uint8).reshape(5, 8, 8, 1)
    figure = sample_sheet({"Heun": images, "ERK-Guid": 255 - images}, "sheet", list("abcde"))
    assert len(figure.axes) == 10
    assert [axis.get_title() for axis in figure.axes] == [*"abcde", *[""] * 5]
    assert [figure.axes[0].get_ylabel(), figure.axes[5].get_ylabel()] == ["Heun", "ERK-Guid"]
    for axis, image in zip(figure.axes, [*images, *(255 - images)], strict=True):
        (shown,) = axis.images
        assert np.array_equal(np.asarray(shown.get_array()), image[..., 0])
        assert shown.get_clim() == (0, 255)  # contrast is part of what is compared
    assert to_bytes(figure, "png").startswith(b"\x89PNG")


def test_sample_sheet_of_color_images_and_rows_of_different_length() -> None:
    colored = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    figure = sample_sheet({"all": colored, "few": colored[:1]}, "sheet", ["1", "2", "3", "4"])
    assert len(figure.axes) == 6
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 1, 0, 0]
    assert np.asarray(figure.axes[0].images[0].get_array()).shape == (8, 8, 3)


def test_reproduced_column_is_left_out_where_nothing_was_compared() -> None:
    view = make_view()
    alone = TableView(view.title, view.caption, tuple(replace(each, reproduction="") for each in view.rows))
    assert "reproduced" in markdown(view) and "reproduced" not in markdown(alone)
