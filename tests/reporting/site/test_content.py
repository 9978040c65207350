"""Names of pages: plain characters, each its own."""

from __future__ import annotations

import pytest

from erk_bench.reporting.site.content import SiteTable, page_names
from erk_bench.reporting.site.figures import table_figures
from erk_bench.reporting.table_views import TableView
from tests.reporting.test_table_views import row


@pytest.mark.parametrize(
    ("names", "pages"),
    [
        (["a", "a", "a"], ["a", "a-2", "a-3"]),
        (["a", "a-2", "a"], ["a", "a-2", "a-3"]),
        (["Set", "set"], ["Set", "set-2"]),  # some file systems take them for one
        (["<script>", "\"'\n", "...", "über/../x"], ["script", "record", "record-2", "ber_.._x"]),
        (["x" * 300, "x" * 301], ["x" * 80, "x" * 80 + "-2"]),
    ],
)
def test_every_record_has_a_page_of_its_own(names: list[str], pages: list[str]) -> None:
    assert page_names(names) == pages


def test_a_table_without_a_picture_has_none_on_its_page() -> None:
    view = TableView("made", "", (row("CFG 1.5", 4, "Heun", 1.0, solver="Heun"),))
    for figure, count in (("steps", 1), ("none", 0)):
        assert len(table_figures(SiteTable("made", view, ("one",), "here", "a command", figure))) == count
