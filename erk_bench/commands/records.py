"""`erk-bench records`: the records of folders as one table, for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erk_bench.commands.command import Command, check_places
from erk_bench.commands.options import Names, PathText, option


@dataclass(frozen=True, kw_only=True)
class RecordsOptions:
    """Options of `erk-bench records`."""

    to: str | None = option(
        PathText("FILE.csv|.parquet"), "the file to write; without it they are shown", None
    )
    settings: tuple[str, ...] = option(
        Names("NAME,..."), "more settings to have as columns, for example schedule.rho,metrics.num_groups", ()
    )


def _check(words: Sequence[str]) -> None:
    """Places only."""
    check_places("records", words, COMMAND.rows, "erk-bench records results/records/digits")


def records(options: RecordsOptions, words: list[str]) -> int:
    from erk_bench.commands.actions import records as action

    return action.records(options, words)


COMMAND = Command(
    name="records",
    summary="list the records of folders, or write them as one CSV or Parquet file",
    run=records,
    options=RecordsOptions,
    words="PLACE [PLACE ...]",
    check=_check,
    examples="""\
  erk-bench records results/records/digits                  # what is there
  erk-bench records results to=records.csv                  # all of it, a line each, for a spreadsheet
  erk-bench records results/runs to=records.parquet settings=schedule.rho
  A place is a record file, a run's folder, or a folder of records; sub-folders are searched.""",
)
