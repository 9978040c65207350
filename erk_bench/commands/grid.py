"""`erk-bench grid`: every cell of a grid, computed with shared trajectories."""

from __future__ import annotations

from dataclasses import dataclass

from erk_bench.commands.command import Command
from erk_bench.commands.options import FOLDER, FOLDERS, GRID, STYLE, Flag, option
from erk_bench.commands.settings import SWEEP


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """Options of `erk-bench grid`."""

    grid: str = option(GRID, "the grid: a file of configs/grid by NAME, or your own FILE.yaml", "digits")
    from_: str | None = option(FOLDERS, "read records from these folders and compute nothing", None)
    to: str | None = option(FOLDER, "where table and figures are written; OUT/grids unless given", None)
    records: str | None = option(FOLDER, "also write the records there", None)
    sampling: bool = option(Flag(), "false never samples: what is missing is an error", True)
    views: bool = option(Flag(), "false computes the cells and draws nothing", True)
    style: str = option(
        STYLE, "look of the figures: paper is 3.25 inches wide, 7 points, no title, PDF too", "screen"
    )


def grid(options: GridOptions, settings: list[str]) -> int:
    from erk_bench.commands.actions import grid as action

    return action.grid(options, settings)


COMMAND = Command(
    name="grid",
    summary="run every cell of a grid with shared trajectories, show the best, draw the figures",
    run=grid,
    options=GridOptions,
    settings=SWEEP,
    examples="""\
  erk-bench grid                                            # the digits grid, minutes
  erk-bench grid schedule.num_steps=8 correction.w_stiff=0.5,1 correction.w_con=0,0.3,1   # other axes
  erk-bench grid guidance=cfg guidance.weight=1,1.5         # a setting with several values is an axis, too
  erk-bench grid grid=figure4_16 seeds=100000-109999        # the paper's Figure 4, on fewer images
  erk-bench grid from=results/records/grid to=results/grids # views from records, nothing computed
  erk-bench grid grid=my-grid.yaml                          # a grid of your own""",
)
