"""`erk-bench report`: the files of a site, its links, sizes and samples; and what it refuses."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from erk_bench.cli import main
from erk_bench.commands.actions.report import site_content
from erk_bench.commands.actions.table import first_images
from erk_bench.commands.compose import run_spec
from erk_bench.runs.record_folder import load_records
from tests.isolation import ROOT
from tests.reporting.site.pages import HOSTILE, hostile_records, links_of, made_up, write_all

RUN = ["track=digits", "seeds=3-22", "block_size=8", "workers=1", "device=cpu", "schedule.num_steps=3",
       "metrics.num_groups=5", "metrics.names=[fd_digits]"]  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Six usual records and three hostile ones, two of them in one file more."""
    place = tmp_path_factory.mktemp("site")
    records = [*map(made_up, range(6)), *hostile_records()]
    write_all(place / "records" / "<b>mine", records)
    shutil.copy(place / "records" / "<b>mine" / "0000.json", place / "records" / "<b>mine" / "copy.json")
    assert main(["report", str(place / "records"), f"to={place / 'site'}"]) == 0
    yield place / "site"


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


@pytest.mark.slow
def test_every_link_resolves(site: Path) -> None:
    assert len(pages(site)) == 2 + 9  # overview, compare, and a page a record
    for page in pages(site):
        for link, file, ids in links_of(page):
            assert file.is_file(), (page, link)
            fragment = link.partition("#")[2]
            assert not fragment or fragment in ids, (page, link)


def test_hostile_names_are_text(site: Path) -> None:
    """In pages they are escaped; in scripts they are inside JSON without '<'."""
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        assert (
            "<script>alert" not in text and "<img" not in text and "49" not in text.partition("</title>")[0]
        )
    for script in [*(site / "records").glob("*.js"), *(site / "data").glob("*.js")]:
        line = script.read_text(encoding="utf-8")
        assert line.isascii() and "<" not in line and line.count("\n") == 1
    of_set = next(file for file in (site / "records").glob("images-*.html"))
    assert "&lt;/script&gt;" in of_set.read_text(encoding="utf-8")
    content = json.loads((site / "data" / "index.js").read_text().removeprefix("Site.index(").rstrip(")\n"))
    assert HOSTILE in {row[content["columns"].index("name")] for row in content["rows"]}
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in (site / "records").iterdir())


def test_records_of_equal_content_are_one_page_with_both_files(site: Path) -> None:
    (page,) = (site / "records").glob(f"{made_up(0).run_id}.js")
    record = json.loads(page.read_text().removeprefix("Site.record(").rstrip(")\n"))
    assert record["files"] == ["0000.json", "copy.json"]
    assert record["commands"][0].startswith("erk-bench run schedule.num_steps=4 metrics.")


def test_a_second_report_replaces_the_first(site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "site")
    write_all(tmp_path / "records", [made_up(7)])
    assert main(["report", str(tmp_path / "records"), f"to={tmp_path / 'site'}"]) == 0
    assert {page.stem for page in (tmp_path / "site" / "records").glob("*.html")} == {made_up(7).run_id}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "'nowhere' is not there; give a record file, a run's folder or a folder of records"),
        (["empty"], "there are no records in 'empty'"),
        (["records", "to=full"], "to is 'full', which holds something else than a report"),
        (["records", "to=full/thesis.tex"], "to is 'full/thesis.tex', which is a file"),
        (["records", "samples=-1"], "samples is '-1'; expected a whole number from 0 on"),
        (["records", "too=x"], "unknown setting of report 'too'; did you mean 'to'?"),
        (["records", "to="], "to"),
    ],
)
def test_wrong_words_get_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("years of work")
    write_all(Path("records"), [made_up(0)])
    assert main(["report", *words]) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed and "\n" not in printed
    assert Path("full/thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_a_missing_extra_is_named(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    write_all(Path("records"), [made_up(0)])
    assert main(["report", "records"]) == 2
    printed = capsys.readouterr().err.strip()
    assert f"report needs {package}" in printed and "pip install 'erk-bench[report]'" in printed
    assert "\n" not in printed and not Path("results").exists()


@pytest.mark.slow
def test_samples_are_those_of_the_run_kept_or_drawn_anew(tmp_path: Path) -> None:
    """The same pixels from its blocks, from blocks that were moved, and drawn where only the record is."""
    assert main(["run", *RUN, f"out={tmp_path / 'runs'}"]) == 0
    spec = run_spec([*RUN, f"out={tmp_path / 'runs'}"])
    images = first_images(spec, 8)
    assert images is not None
    (tmp_path / "runs").rename(tmp_path / "moved")
    kept = site_content(load_records(tmp_path / "moved")).records[0].strip
    assert kept is not None and kept.seeds == tuple(range(3, 11)) and kept.size == (8, 8)
    pixels = np.asarray(Image.open(io.BytesIO(kept.png)))
    assert (pixels == np.concatenate(list(images[..., 0]), axis=1)).all()
    (record,) = (tmp_path / "moved").rglob("records/*.json")
    shutil.copy(record, tmp_path / "alone.json")
    alone = load_records(tmp_path / "alone.json")
    assert site_content(alone).records[0].strip is None  # nobody asked to draw
    assert site_content(alone, samples=8).records[0].strip == kept
    assert site_content(load_records(tmp_path / "moved"), samples=0).records[0].strip is None


@pytest.mark.slow
@pytest.mark.results
def test_tables_and_grids_of_committed_records(tmp_path: Path) -> None:
    """Rows in the order of the table's file, each leading to its record; the numbers are the table's."""
    found = load_records([ROOT / "results" / "records" / name for name in ("digits", "grid-digits")])
    content = site_content(found)
    (table,), (grid,) = content.tables, content.grids
    assert (table.page, grid.page) == ("digits", "digits") and len(grid.view.points) == 96
    known = {record.id: record for record in content.records}
    for row, page in zip(table.view.rows, table.ids, strict=True):
        value, _ = row.metrics["fd_digits"][1]
        assert known[page].record.metrics["fd_digits"].value == value
        assert "tables/digits.html" in {place.href for place in known[page].places}
    number = next(place.row for place in known[table.ids[3]].places)
    assert number == "row 3" and "erk-bench table table=digits rows=3" in known[table.ids[3]].commands
    assert {point.run_id for point in grid.view.points} <= {
        known[page].record.run_id for page in grid.ids.values()
    }
    assert not content.notes


@pytest.mark.slow
def test_a_thousand_records(tmp_path: Path) -> None:
    """Under 10 s and under 3 MB of own pages, without plotly's bundle."""
    write_all(tmp_path / "records", [made_up(number) for number in range(1000)])
    start = time.process_time()
    assert main(["report", str(tmp_path / "records"), f"to={tmp_path / 'site'}"]) == 0
    seconds = time.process_time() - start
    files = [path for path in (tmp_path / "site").rglob("*") if path.is_file() and path.suffix != ".png"]
    size = sum(path.stat().st_size for path in files if path.name != "plotly.min.js")
    print(f"{seconds:.1f} s, {size / 1e6:.2f} MB of own pages")
    assert seconds < 10 and size < 3e6
