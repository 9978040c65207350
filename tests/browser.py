"""A real browser for tests: a Chromium of the system, driven by playwright; it fetches nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.isolation import IN_CI

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def started() -> Iterator[Browser]:
    """The browser; the test is skipped where there is none, but not in CI."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        message = f"none of {', '.join(PROGRAMS)} is installed (Debian: apt-get install chromium)"
        pytest.fail(message) if IN_CI else pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, file: Path, fragment: str = "", **settings: Any) -> Iterator[Page]:
    """A page from the disk, without a network; fails for an error on its console or a request elsewhere."""
    context = browser.new_context(offline=True, **settings)
    context.set_default_timeout(120_000)  # machines of CI are busy
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda said: said.type in ("error", "warning") and problems.append(said.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(f"a script ran: {dialog.message}"))
    page.on(
        "request",
        lambda request: request.url.startswith(("file:", "data:", "blob:")) or problems.append(request.url),
    )
    page.on("requestfailed", lambda request: problems.append(f"missing: {request.url}"))
    page.goto(file.as_uri() + fragment)
    yield page
    assert not problems, problems
    context.close()
