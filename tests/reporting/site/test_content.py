"""Names of pages: plain characters, each its own."""

from __future__ import annotations

import pytest

from erk_bench.reporting.site.content import page_names


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
