"""`erk-bench analyze`: how stiff a checkpoint's trajectories are, and whether the solver sees it."""

from __future__ import annotations

from dataclasses import dataclass

from erk_bench.commands.command import Command
from erk_bench.commands.options import FOLDER, Whole, option
from erk_bench.commands.settings import RUN


@dataclass(frozen=True, kw_only=True)
class AnalyzeOptions:
    """Options of `erk-bench analyze`."""

    images: int = option(Whole(), "trajectories, of the first seeds", 16)
    iterations: int = option(Whole(), "steps of the power iteration, two network evaluations each", 50)
    to: str | None = option(FOLDER, "where figure and CSV are written; OUT/analyses unless given", None)


def analyze(options: AnalyzeOptions, settings: list[str]) -> int:
    from erk_bench.commands.actions import analyze as action

    return action.analyze(options, settings)


COMMAND = Command(
    name="analyze",
    summary="how stiff a model's trajectories are, and whether the solver sees it: figure and CSV",
    run=analyze,
    options=AnalyzeOptions,
    settings=RUN,
    examples="""\
  erk-bench analyze                                         # the digits network, Heun, 32 steps
  erk-bench analyze guidance=cfg guidance.weight=1.5        # the drift with guidance
  erk-bench analyze model=edm2-img512-s-fid images=8 network_dtype=float32 to=results/figures
  Written: analyze-NAME.png, .svg and .csv.""",
)
