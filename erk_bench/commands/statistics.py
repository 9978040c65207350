"""`erk-bench statistics`: a model's statistics for DPM-Solver-v3, from a few hundred trajectories."""

from __future__ import annotations

from dataclasses import dataclass

from erk_bench.commands.command import Command
from erk_bench.commands.options import PathText, Whole, option
from erk_bench.commands.settings import RUN


@dataclass(frozen=True, kw_only=True)
class StatisticsOptions:
    """Options of `erk-bench statistics`."""

    images: int = option(Whole(2), "trajectories, of the first seeds", 256)
    levels: int = option(Whole(3), "noise levels to measure at, uniform in log sigma", 61)
    to: str | None = option(
        PathText("FILE.safetensors"), "file of statistics; in OUT/statistics unless given", None
    )


def statistics(options: StatisticsOptions, settings: list[str]) -> int:
    from erk_bench.commands.actions import statistics as action

    return action.statistics(options, settings)


COMMAND = Command(
    name="statistics",
    summary="a model's statistics for solver dpm_solver_v3, from a few hundred trajectories: a file",
    run=statistics,
    options=StatisticsOptions,
    settings=RUN,
    examples="""\
  erk-bench statistics seeds=1000000-1000255 to=digits.safetensors      # of the digits model
  erk-bench run solver=dpm_solver_v3 solver.statistics=digits.safetensors schedule.num_steps=7
  erk-bench statistics guidance=cfg guidance.weight=1.25 seeds=1000000-1000255    # of this guidance
  Choose seeds that no table uses.""",
)
