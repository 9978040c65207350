"""`erk-bench report`: a site of results that opens from the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erk_bench.commands.command import Command, check_places
from erk_bench.commands.options import FOLDER, Whole, option


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of `erk-bench report`."""

    to: str = option(
        FOLDER, "the folder of the site: a new or an empty one, or an earlier report", "results/report"
    )
    samples: int | None = option(
        Whole(0),
        "show the images of so many first seeds of each record, drawn anew where they are not kept and the "
        "networks are here; 8, and only those that are kept, unless given",
        None,
    )


def _check(words: Sequence[str]) -> None:
    """Places only; none at all means the records of the working folder, or those that ship with erk-bench."""
    if words:
        check_places("report", words, COMMAND.rows, "erk-bench report results/records to=my_report")


def report(options: ReportOptions, words: list[str]) -> int:
    from erk_bench.commands.actions import report as action

    return action.report(options, words)


COMMAND = Command(
    name="report",
    summary="a site of results that opens from the disk: leaderboards, tables, grids, records, comparisons",
    run=report,
    options=ReportOptions,
    words="[PLACE ...]",
    check=_check,
    examples="""\
  erk-bench report                                          # results/, else the records that ship with it
  erk-bench report results/runs to=my_report                # my_report/index.html opens without a network
  erk-bench report results/records samples=8 to=my_report   # images drawn anew where no run is kept
  A place is a record file, a run's folder, or a folder of records; sub-folders are searched. Tables and grids
  of configs/ whose records are all in one folder get a page each. It needs the extra 'report':
  pip install 'erk-bench[report]'""",
)
