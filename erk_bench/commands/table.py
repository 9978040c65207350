"""`erk-bench table`: every row of a table computed, shown and compared."""

from __future__ import annotations

from dataclasses import dataclass

from erk_bench.commands.command import Command
from erk_bench.commands.options import FOLDER, FOLDERS, ROWS, STYLE, TABLE, Flag, Names, Whole, option
from erk_bench.commands.settings import RUN


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Options of `erk-bench table`."""

    table: str = option(
        TABLE, "the table: a file of configs/table by NAME or TRACK/NAME, or your own FILE.yaml", "digits"
    )
    rows: str | None = option(ROWS, "numbers of the rows to show, from 0 on; all unless given", None)
    sets: int = option(
        Whole(), "sets of as many seeds for each row; several give means, spread and minima", 1
    )
    from_: str | None = option(FOLDERS, "read records from these folders and compute nothing", None)
    to: str | None = option(FOLDER, "where table and figures are written; OUT/tables unless given", None)
    records: str | None = option(
        FOLDER,
        "also write the records there; in the table's reference folder they become its reference",
        None,
    )
    sampling: bool = option(Flag(), "false never samples: what is missing is an error", True)
    columns: tuple[str, ...] = option(
        Names("NAME,..."), "columns of every view, by the names of the CSV file's; all unless given", ()
    )
    style: str = option(
        STYLE, "look of the figures: paper is 3.25 inches wide, 7 points, no title, PDF too", "screen"
    )
    cfg: bool = option(Flag(), "show the settings of each row, as YAML, and do nothing else", False)


def table(options: TableOptions, settings: list[str]) -> int:
    from erk_bench.commands.actions import table as action

    return action.table(options, settings)


COMMAND = Command(
    name="table",
    summary="run every row of a table, show it, compare it with the reference records",
    run=table,
    options=TableOptions,
    settings=RUN,
    examples="""\
  erk-bench table                                           # the digits table
  erk-bench table seeds=5000-5999                           # the same rows on other seeds
  erk-bench table from=results/records/digits to=results/tables   # views from records, nothing computed
  erk-bench table records=results/records/digits            # make these results the reference
  erk-bench table table=table2 rows=0,4                     # two rows of the paper's Table 2
  erk-bench table table=table3 rows=0 --cfg                 # every setting of one row
  erk-bench table table=edm2 rows=4 sets=3                  # three seed sets: mean, spread, minimum
  erk-bench table from=results/records/digits to=paper style=paper columns=steps,method,nfe,fd_digits
  erk-bench table table=my-table.yaml                       # a table of your own""",
)
