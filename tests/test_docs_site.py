"""The documentation as a site, built as `make docs` builds it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.isolation import ROOT

FOLDERS = ("docs", "erk_bench", "examples", "results", "configs")  # that pages link to


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the site is made from; docs/ and the hooks are copies."""
    for name in FOLDERS[1:]:
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "scripts").mkdir()
    for name in ("mkdocs.yml", "CONTRIBUTING.md", "CHANGELOG.md", "README.md", "scripts/docs_site.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def build(clone: Path) -> tuple[int, str]:
    """Exit status and what was said."""
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", "site"]
    done = subprocess.run(words, cwd=clone, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.results
def test_the_site_is_whole(clone: Path) -> None:
    """Every link and picture is there, the API page has signatures, and nothing is loaded from elsewhere."""
    status, said = build(clone)
    assert status == 0, said
    site = clone / "site"
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").glob("*.md")))
    for page in pages:
        text = page.read_text()
        assert not re.search(r'(?:src="|<link rel="(?:stylesheet|preconnect)" href=")(?:https?:)?//', text), (
            page
        )
        for target in re.findall(r'(?:src|href)="([^"#?:]+)"', text):
            if page.name != "404.html":
                assert (page.parent / target).exists(), (page, target)
    api = (site / "api.html").read_text()
    assert all(f'id="erk_bench.{name}"' in api for name in ("sample", "draw", "score", "load_records"))


@pytest.mark.slow
@pytest.mark.results
def test_a_dead_link_fails(clone: Path) -> None:
    """To a page, a file of the repository, and a part of a page."""
    links = ("nowhere.md", "../results/tables/nothing.md", "score.md#no-such-part")
    with (clone / "docs/score.md").open("a") as page:
        page.writelines(f"\n[dead]({link})\n" for link in links)
    status, said = build(clone)
    assert status == 1 and said.count("WARNING -") == 3
    assert all(link in said for link in links)
