"""Draws the pictures of docs/report.md from the report of the committed results.

make report                                     # the report, results/report
.venv/bin/python scripts/report_pictures.py     # needs a Chromium that is installed
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def draw(page: Page, path: Path) -> None:
    """What the window shows, in 64 colours: a third of the bytes."""
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(64).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, default=Path("results/report"))
    parser.add_argument("--to", type=Path, default=Path("docs/images"))
    parser.add_argument("--text", default="digits-table4", help="what the leaderboards are filtered by")
    words = parser.parse_args()
    program = next(filter(None, map(shutil.which, PROGRAMS)))
    words.to.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1250, "height": 1000})
        page.set_default_timeout(120_000)
        overview = (words.report / "index.html").absolute()
        page.goto(overview.as_uri())
        page.wait_for_selector("body[data-ready]")
        page.select_option("#guidance", index=1)
        page.fill("#text", words.text)
        page.evaluate("document.querySelector('#boards').scrollIntoView()")
        page.locator(".js-plotly-plot").first.wait_for()
        draw(page, words.to / "report-overview.png")
        links = page.locator("#board-0 tbody th a")
        best, worst = (
            overview.parent / str(link.get_attribute("href")) for link in (links.first, links.last)
        )
        page.goto(best.as_uri())
        draw(page, words.to / "report-record.png")
        page.goto((overview.parent / "compare.html").as_uri() + f"#a={best.stem}&b={worst.stem}")
        page.locator(".compared").wait_for()
        draw(page, words.to / "report-compare.png")
        browser.close()


if __name__ == "__main__":
    main()
