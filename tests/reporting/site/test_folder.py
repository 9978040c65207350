"""A site's folder: only what an earlier report wrote is ever replaced or removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erk_bench.base.errors import UserError
from erk_bench.reporting.site.folder import LIST, SiteFolder


def write(folder: Path, *names: str) -> None:
    with SiteFolder(folder) as site:
        for name in names:
            site.write(name, name.encode())


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {LIST}


def test_an_earlier_report_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    write(tmp_path / "site", "index.html", "records/a.html")
    (tmp_path / "site" / "CNAME").write_text("mine")
    write(tmp_path / "site", "index.html", "records/b.html")
    assert files(tmp_path / "site") == {"index.html", "records/b.html", "CNAME"}


def test_a_report_that_was_cut_short_can_be_made_again(tmp_path: Path) -> None:
    write(tmp_path, "old.html", "index.html")
    with pytest.raises(RuntimeError), SiteFolder(tmp_path) as site:
        site.write("new.html", b"")
        raise RuntimeError("power cut")
    assert files(tmp_path) == {"old.html", "index.html", "new.html"}
    write(tmp_path, "index.html")
    assert files(tmp_path) == {"index.html"}


@pytest.mark.parametrize("content", [None, "{}", "[]", '{"format": "other", "files": []}', "no JSON"])
def test_a_folder_with_something_else_is_refused(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    if content is not None:
        (tmp_path / LIST).write_text(content)
    with pytest.raises(UserError, match="holds something else than a report; give a new or an empty folder"):
        SiteFolder(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        SiteFolder(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_forged_list_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("mine")
    site = tmp_path / "site"
    site.mkdir()
    listed = ["../keep", str(tmp_path / "keep"), "x/../../keep"]
    (site / LIST).write_text(json.dumps({"format": "erk-bench report 1", "files": listed}))
    write(site, "index.html")
    assert (tmp_path / "keep").read_text() == "mine"
