"""The site in a real browser: it loads without errors, filters and compares, and works from the keyboard."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from erk_bench.commands.actions.report import site_content
from erk_bench.commands.actions.report_samples import strip
from erk_bench.reporting.comparison_views import ComparisonRow
from erk_bench.reporting.site.build import write_site
from erk_bench.reporting.site.content import SiteContent
from erk_bench.reporting.site.folder import SiteFolder
from erk_bench.runs.record_folder import load_records
from erk_bench.runs.records import Record
from erk_bench.studies.compare import compare
from erk_bench.studies.comparison_names import NamedRecord
from tests.browser import opened, started
from tests.isolation import ROOT
from tests.reporting.site.pages import HOSTILE, hostile_records, made_up, measured, write_all

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def site_of(content: SiteContent, to: Path) -> Path:
    write_site(content, SiteFolder(to), lambda number: None)
    return to


def records() -> list[Record]:
    """Pairs, other seeds, other groups, halves on one side, values that are no numbers, and hostile names."""
    usual = [made_up(number) for number in range(12)]
    base = made_up(0).metrics
    return [
        *usual,
        made_up(0, run_id="other-seeds", spec={**made_up(0).spec, "seeds": "20-59"}, seeds="20-59"),
        made_up(0, run_id="far-seeds", spec={**made_up(0).spec, "seeds": "100-139"}, seeds="100-139"),
        made_up(0, run_id="fewer", num_images=30),
        made_up(0, run_id="groups", metrics={**base, "fd_digits": measured(2.0, 5, groups=40)}),
        made_up(0, run_id="no-halves", metrics={**base, "recall_digits": measured(0.6, 6)}),
        made_up(0, run_id="nan", metrics={
            **base, "fd_digits": dataclasses.replace(base["fd_digits"], value=math.nan)}),
        made_up(0, run_id="inf", metrics={
            **base, "fd_digits": dataclasses.replace(base["fd_digits"], replicates=(math.inf,) * 50)}),
        made_up(0, run_id="copy"),
        made_up(0, run_id="far", metrics={**base, "fd_digits": measured(9.0, 0)}),
        *(made_up(number, reference={}, metrics={"solver_error": measured(10.0**-number, number)})
          for number in (0, 2, 4)),
        *hostile_records(),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as found:
        yield found


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> SiteContent:
    """The records, two of them with images."""
    folder = write_all(tmp_path_factory.mktemp("records"), records())
    found = site_content(load_records(folder))
    random = np.random.RandomState(0)
    shown = [
        dataclasses.replace(
            record,
            strip=strip(random.randint(0, 255, (8, 8, 8, 1), dtype=np.uint8), range(number, number + 8)),
        )
        if number < 2
        else record
        for number, record in enumerate(found.records)
    ]
    return dataclasses.replace(found, records=shown)


@pytest.fixture(scope="module")
def site(content: SiteContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return site_of(content, tmp_path_factory.mktemp("site"))


def rows_of(page: Page) -> list[str]:
    return page.locator(".board tbody th").all_inner_texts()


def test_filters_and_sorting_work_from_the_keyboard(
    browser: Browser, site: Path, content: SiteContent
) -> None:
    with opened(browser, site / "index.html") as page:
        page.wait_for_selector("body[data-ready]")
        total = len(content.records)
        assert page.inner_text("#count") == f"{total} of {total} records"
        for name in ("solver", "guidance", "correction", "cost", "text"):
            assert page.locator(f"label:has(#{name})").inner_text().strip()
        page.focus("#solver")
        page.keyboard.type("deis")
        page.keyboard.press("Enter")
        chosen = sum(record.solver == "DEIS" for record in content.records)
        assert 0 < chosen < total
        page.wait_for_function(
            f"document.getElementById('count').textContent === '{chosen} of {total} records'"
        )
        page.focus("#cost")
        page.keyboard.type("4")
        cheap = sum(r.solver == "DEIS" and r.record.nfe + r.record.nfe_guide <= 4 for r in content.records)
        assert page.inner_text("#count") == f"{cheap} of {total} records"
        page.click("#filters button[type=reset]")
        page.wait_for_function(
            f"document.getElementById('count').textContent === '{total} of {total} records'"
        )
        page.fill("#text", "alert(1)")
        assert page.inner_text("#count").startswith("1 of ") and HOSTILE.split("\n")[0] in rows_of(page)[0]
        page.fill("#text", "")
        header = page.locator("#board-0 th button").filter(has_text="evaluations").first
        header.focus()
        page.keyboard.press("Enter")
        assert page.locator("#board-0 th[aria-sort]").get_attribute("aria-sort") == "ascending"
        texts = page.locator("#board-0 tbody td:nth-child(5)").all_inner_texts()
        costs = [sum(map(int, text.split("+"))) for text in texts if text != "–"]
        assert costs == sorted(costs) and texts[-1] == "–"  # a set of images has no cost
        page.keyboard.press("Enter")  # the focus is still on the column
        assert page.locator("#board-0 th[aria-sort]").get_attribute("aria-sort") == "descending"
        boxes = page.locator("#board-0 tbody input[type=checkbox]")
        for number in (0, 1):
            boxes.nth(number).focus()
            page.keyboard.press("Space")
        ids = [boxes.nth(number).get_attribute("value") for number in (0, 1)]
        page.click("#chosen a")
        page.wait_for_selector(f"#result[data-ready='{ids[1]} {ids[0]}']")


def test_the_figure_follows_metric_and_axes(browser: Browser, site: Path) -> None:
    with opened(browser, site / "index.html") as page:
        plot = "document.querySelector('#board-0 .canvas')"
        page.wait_for_function(f"{plot}?._fullLayout")
        board = page.locator("#board-0")
        board.get_by_label("Metric", exact=False).first.select_option("recall_digits")
        board.get_by_label("against").first.select_option("steps")
        board.get_by_label("logarithmic abscissa").check()
        page.wait_for_function(f"{plot}._fullLayout.xaxis.type === 'log'")
        assert page.evaluate(f"{plot}._fullLayout.xaxis.title.text") == "steps"
        front = page.evaluate(f"{plot}.data.find((trace) => trace.name === 'Pareto front')?.y ?? []")
        assert front == sorted(front)  # more recall is better
        assert page.evaluate(f"{plot}.data[0].error_y.array.length") > 0


def test_solver_errors_are_a_convergence_figure(browser: Browser, site: Path) -> None:
    """Both axes logarithmic, in a leaderboard of its own; its figure is drawn when it comes into view."""
    with opened(browser, site / "index.html") as page:
        page.wait_for_selector("body[data-ready]")
        board = page.locator(".board").filter(has_text="digits, no reference, 40 images")
        board.scroll_into_view_if_needed()
        plot = f"document.querySelector('#{board.get_attribute('id')} .canvas')"
        page.wait_for_function(f"{plot}?._fullLayout")
        types = page.evaluate(f"[{plot}._fullLayout.xaxis.type, {plot}._fullLayout.yaxis.type]")
        assert types == ["log", "log"] and board.locator("tbody tr").count() == 3


PAIRS = [
    ("0", "1"), ("0", "7"), ("3", "0"), ("0", "copy"), ("0", "other-seeds"), ("far-seeds", "0"),
    ("0", "fewer"),
    ("groups", "1"), ("no-halves", "2"), ("nan", "0"), ("inf", "0"), ("far", "0"),
]  # fmt: skip


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_the_browser_compares_as_python_does(
    browser: Browser, site: Path, content: SiteContent, mine: str, theirs: str
) -> None:
    """Differences, errors, p values, corrections, verdicts and pairing of every metric."""
    ids = [made_up(int(name)).run_id if name.isdigit() else name for name in (mine, theirs)]
    a, b = (
        next(each for each in content.records if each.record.run_id == run_id) for run_id in ids
    )  # fmt: skip
    view = compare([NamedRecord(b.record, Path("b")), NamedRecord(a.record, Path("a"))])
    with opened(browser, site / "compare.html", f"#a={a.id}&b={b.id}") as page:
        page.wait_for_selector(f"#result[data-ready='{a.id} {b.id}']")
        found = page.evaluate(
            "([a, b]) => Statistics.compare(Site.records[a], Site.records[b], Site.metrics, Site.rules).rows"
            ".map((row) => [row.name, ...row.difference, row.p, row.pHolm, row.verdict, row.lack])",
            [a.id, b.id],
        )
        shown = page.locator(".compared tbody tr").all_inner_texts()
    assert len(found) == len(shown) == len(view.rows) == 3
    for row, mine_, text in zip(view.rows, found, shown, strict=True):
        name, *numbers, verdict, lack = mine_
        assert (name, verdict, lack) == (row.metric, row.verdict, row.lack)
        _alike(numbers, row)
        assert row.verdict in text and row.title in text


def _alike(numbers: list[Any], row: ComparisonRow) -> None:
    expected = [*row.difference, row.p, row.p_holm]
    least = 1e-6 if math.isnan(row.difference[0]) else 1e-12  # nothing to count deviations from
    for value, wanted in zip(numbers, expected, strict=True):
        value = math.nan if value is None else float(value)
        assert value == pytest.approx(wanted, rel=1e-4, abs=least, nan_ok=True), (row.metric, numbers)


def test_records_of_other_references_are_not_compared(
    browser: Browser, site: Path, content: SiteContent
) -> None:
    other = next(each for each in content.records if each.record.reference.get("name") == HOSTILE)
    with opened(browser, site / "compare.html", f"#a={content.records[0].id}&b={other.id}") as page:
        page.wait_for_selector("#result .note")
        assert "They cannot be compared: the reference is" in page.inner_text("#result .note")
        assert page.locator(".compared").count() == 0


def test_the_same_seeds_side_by_side(browser: Browser, site: Path, content: SiteContent) -> None:
    """Only seeds that both have; a slider and a difference image."""
    a, b = content.records[:2]
    with opened(browser, site / "compare.html", f"#a={a.id}&b={b.id}") as page:
        page.wait_for_selector(".two")
        captions = page.locator(".two figcaption").all_inner_texts()
        assert captions == [f"seed {seed}" for seed in range(1, 8)]
        page.select_option("#mode", "slider")
        page.focus("#cut")
        page.keyboard.press("Home")
        style = "getComputedStyle(document.querySelector('.layer-1'))"
        assert page.evaluate(f"{style}.clipPath").startswith("inset(0px 0px 0px ")
        before = page.locator(".tile").first.screenshot()
        page.keyboard.press("End")
        assert page.locator(".tile").first.screenshot() != before
        page.select_option("#mode", "difference")
        assert page.evaluate(f"{style}.mixBlendMode") == "difference"
        assert page.locator("#cut").is_disabled()
        page.click("#swap")
        page.wait_for_selector(f"#result[data-ready='{b.id} {a.id}']")


def test_a_records_page_has_everything_and_hostile_names_stay_text(
    browser: Browser, site: Path, content: SiteContent
) -> None:
    """The first one, and those with hostile names: every setting, every metric; no script of theirs runs."""
    hostile = [each for each in content.records if "alert" in str(each.record)]
    assert len(hostile) == 3
    for record in [content.records[0], *hostile]:
        with opened(browser, site / "records" / f"{record.id}.html") as page:
            page.wait_for_selector("main section")
            text = page.inner_text("main")
            for value in (record.record.run_id, record.record.created, *record.commands):
                assert " ".join(value.split()) in " ".join(text.split())
            cells = page.locator(".settings th").all_inner_texts()
            assert {"environment.device", "seeds", "protocol", "reference.sha256"} <= set(cells)
            assert page.locator(".provenance li").count() == 4 and page.locator("main img").count() == 0
            assert page.locator("details").count() == sum(
                1 + bool(m.halves) for m in record.record.metrics.values()
            )
            assert ("No images of this record are kept here" in text) == (record.strip is None)
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.textContent") == "To the content"


@pytest.mark.results
def test_the_committed_results_in_light_dark_narrow_and_print(browser: Browser, tmp_path: Path) -> None:
    """Every kind of page loads without errors; only what scrolls is wider than a telephone."""
    content = site_content(
        load_records([ROOT / "results" / "records" / name for name in ("digits", "grid-digits")]), samples=0
    )
    site = site_of(content, tmp_path / "site")
    pages = ["index.html", "compare.html", f"records/{content.records[0].id}.html"]
    pages += [f"tables/{table.page}.html" for table in content.tables]
    pages += [f"grids/{grid.page}.html" for grid in content.grids]
    assert len(pages) >= 5
    for name in pages:
        for settings in (
            {"color_scheme": "light"},
            {"color_scheme": "dark", "viewport": {"width": 360, "height": 740}},
        ):
            with opened(browser, site / name, **settings) as page:
                page.wait_for_load_state()
                if name.startswith(("tables", "grids", "index")):
                    page.wait_for_function("document.querySelector('.canvas')?._fullLayout")
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, settings)
                dark = settings["color_scheme"] == "dark"
                paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (paper == "rgb(20, 24, 29)") == dark
                page.emulate_media(media="print")
                assert page.locator("table").first.is_visible()


def test_the_pictures_of_the_documentation(site: Path, tmp_path: Path) -> None:
    """The script that draws those of docs/report.md."""
    script = ROOT / "scripts/report_pictures.py"
    subprocess.run(
        [sys.executable, script, "--report", site, "--to", tmp_path / "images", "--text", ""], check=True
    )
    for name in ("overview", "record", "compare"):
        assert Image.open(tmp_path / "images" / f"report-{name}.png").size == (1250, 1000)
        assert (ROOT / f"docs/images/report-{name}.png").stat().st_size < 150_000
