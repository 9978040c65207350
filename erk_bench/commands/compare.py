"""`erk-bench compare`: which of several records is better, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erk_bench.commands.command import Command, check_places
from erk_bench.commands.options import FOLDER, FOLDERS, STYLE, Flag, Names, PathText, Text, option


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of `erk-bench compare`."""

    baseline: str | None = option(
        PathText("PLACE"), "what the others are compared with; the first record unless given", None
    )
    all_pairs: bool = option(Flag(), "compare every record with each one before it", False)
    metrics: tuple[str, ...] = option(
        Names("NAME,..."), "only these metrics; all that two records share unless given", ()
    )
    seeds: str | None = option(
        Text("FIRST-LAST"), "only records of these seeds, where a place has several", None
    )
    reference: str | None = option(
        Text("NAME"), "only records that were measured against this, where a place has several", None
    )
    to: str | None = option(
        FOLDER, "where table (Markdown, CSV, LaTeX) and figure are written; only shown unless given", None
    )
    style: str = option(
        STYLE, "look of the figure: paper is 3.25 inches wide, 7 points, no title, PDF too", "screen"
    )
    from_: str | None = option(FOLDERS, "look here first for the records of a table's rows", None)
    out: str = option(
        FOLDER, "the folder of runs, where records of rows and sets of images lie", "results/runs"
    )


def _check(words: Sequence[str]) -> None:
    """Places only."""
    check_places("compare", words, COMMAND.rows, "erk-bench compare results/runs/A results/runs/B")


def compare(options: CompareOptions, words: list[str]) -> int:
    from erk_bench.commands.actions import compare as action

    return action.compare(options, words)


COMMAND = Command(
    name="compare",
    summary="compare records: differences, paired errors, which are better",
    run=compare,
    options=CompareOptions,
    words="PLACE PLACE [PLACE ...]",
    check=_check,
    examples="""\
  erk-bench compare digits:0 digits:1                       # two rows of the digits table
  erk-bench compare results/runs/A results/runs/B           # two runs; also A B, their names
  erk-bench compare results/records/digits baseline=digits:0 metrics=fd_digits   # a folder against one row
  erk-bench compare digits:0-5 all_pairs=true               # each of six rows with each
  erk-bench compare my_images/ others.zip                   # sets of images that 'erk-bench score' has scored
  erk-bench compare digits:0,1 to=comparison style=paper    # table and forest plot as files
  A place is a record file, a run's folder or name, a folder of records, rows of a table as TABLE:ROWS, or a
  set of images.""",
)
