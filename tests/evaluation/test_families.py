"""The table of families and its page."""

from __future__ import annotations

import re
from pathlib import Path

from erk_bench.evaluation.families import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_has_a_row_for_every_family_and_no_other() -> None:
    """With what each needs, and a plus where higher is better."""
    table = PAGE.read_text().split("## The families")[1].split("## How")[0]
    found = {}
    for line in table.splitlines():
        cells = re.split(r"(?<!\\) \| ", line.strip("| "))
        if not line.startswith("| `"):
            continue
        for name, plus in re.findall(r"`(\w+)`( \+)?", cells[0]):
            found[name] = (cells[2], plus == "")
    assert found == {name: (row.needs, row.lower) for name, row in FAMILIES.items()}


def test_titles_differ() -> None:
    titles = [row.title for row in FAMILIES.values()]
    assert len(set(titles)) == len(titles)
