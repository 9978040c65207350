"""`erk-bench search`: good (w_stiff, w_con) for a run within a budget of network evaluations."""

from __future__ import annotations

from dataclasses import dataclass

from erk_bench.base.extras import need
from erk_bench.commands.command import Command
from erk_bench.commands.options import FOLDER, Bounds, Whole, option
from erk_bench.commands.settings import RUN

LARGEST = 1_000_000  # of w_stiff and w_con


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of `erk-bench search`."""

    budget: int | None = option(
        Whole(),
        "evaluations of single images to spend, the guiding network's too; those of 12 runs unless given",
        None,
    )
    w_stiff: tuple[float, float] = option(Bounds(LARGEST), "lowest and highest w_stiff", (0.1, 2.5))
    w_con: tuple[float, float] = option(Bounds(LARGEST), "lowest and highest w_con", (0.0, 2.0))
    first: int | None = option(Whole(), "images of the first rung; an eighth of all unless given", None)
    factor: int = option(Whole(), "of the cells of a rung, one in so many is passed on to the next", 2)
    batch: int = option(Whole(), "cells that are proposed at a time", 8)
    search_seed: int = option(Whole(), "seed of the proposals", 1)
    to: str | None = option(FOLDER, "where cells, figure and study go; OUT/searches unless given", None)


def search(options: SearchOptions, settings: list[str]) -> int:
    need("optuna", "search")
    from erk_bench.commands.actions import search as action

    return action.search(options, settings)


COMMAND = Command(
    name="search",
    summary="find good w_stiff and w_con of ERK-Guid for a run within a budget",
    run=search,
    options=SearchOptions,
    settings=RUN,
    examples="""\
  erk-bench search schedule.num_steps=8 track=digits        # within the evaluations of 12 full runs
  erk-bench search schedule.num_steps=6 track=digits budget=100000 w_stiff=0.25:1.5
  erk-bench search track=imagenet512 schedule.num_steps=16 seeds=100000-109999 first=2500
  The first of metrics.names is what is searched for. The study is a file that Optuna's dashboard opens:
  optuna-dashboard results/runs/searches/studies.journal       # pip install optuna-dashboard""",
)
