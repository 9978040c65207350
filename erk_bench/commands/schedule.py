"""`erk-bench schedule`: noise levels made for a model and its guidance, from a few hundred trajectories."""

from __future__ import annotations

from dataclasses import dataclass

from erk_bench.commands.command import Command
from erk_bench.commands.options import Choice, Flag, Number, PathText, Whole, option
from erk_bench.commands.settings import RUN


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """Options of `erk-bench schedule`."""

    method: str = option(Choice("gits", "sdm"), "how levels are chosen: GITS or SDM (docs/method.md)", "gits")
    images: int = option(Whole(), "trajectories, of the first seeds", 256)
    teacher: int = option(Whole(2), "fine levels, of schedule=..., to choose from", 61)
    metric: str = option(
        Choice("dev", "l1", "l2"), "gits: what an Euler step between two levels costs", "dev"
    )
    coeff: float = option(
        Number("NUMBER", positive=True), "gits: how much more each later step's cost counts", 1.15
    )
    eta_min: float = option(Number("NUMBER"), "sdm: error that a step at the lowest levels may have", 0.02)
    eta_max: float = option(Number("NUMBER"), "sdm: the same at sigma_max", 0.2)
    eta_power: float = option(Number("NUMBER"), "sdm: power of sigma between the two", 1.0)
    q: float = option(Number("NUMBER"), "sdm: the larger, the more levels at low noise", 0.25)
    snap: bool = option(Flag(), "sdm: the first path stays on the fine levels", True)
    to: str | None = option(PathText("FILE.yaml"), "file of levels; in OUT/schedules unless given", None)


def schedule(options: ScheduleOptions, settings: list[str]) -> int:
    from erk_bench.commands.actions import schedule as action

    return action.schedule(options, settings)


COMMAND = Command(
    name="schedule",
    summary="noise levels made for a model and its guidance, from a few hundred trajectories: a file",
    run=schedule,
    options=ScheduleOptions,
    settings=RUN,
    examples="""\
  erk-bench schedule schedule.num_steps=7 seeds=1000000-1000255 to=levels.yaml    # for the digits model
  erk-bench run solver=ipndm schedule=levels.yaml           # any solver, any row of a table
  erk-bench schedule method=sdm guidance=cfg guidance.weight=1.25 seeds=1000000-1000255
  Choose seeds that no table uses. Whether a step to zero follows the levels is the solver's to say.""",
)
