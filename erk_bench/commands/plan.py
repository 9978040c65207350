"""`erk-bench plan`: what a run, table or grid would take; the manifest of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from erk_bench.commands.cards import CardMemory
from erk_bench.commands.command import Command
from erk_bench.commands.options import GRID, ROWS, TABLE, Number, PathText, Whole, Wholes, option
from erk_bench.commands.settings import SWEEP


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Options of `erk-bench plan`."""

    table: str | None = option(TABLE, "plan this table, as 'erk-bench table' takes it", None)
    grid: str | None = option(GRID, "plan this grid, as 'erk-bench grid' takes it", None)
    rows: str | None = option(ROWS, "numbers of the table's rows, from 0 on; all unless given", None)
    sets: int = option(Whole(), "how many sets of as many seeds each row of the table has", 1)
    throughput: float | None = option(
        Number("TFLOP/s", positive=True, expected="TFLOP/s of one GPU, for example throughput=150"),
        "speed of one GPU, for the time in GPU-hours; that of this machine is timed unless given",
        None,
    )
    throughput_rest: float | None = option(
        Number("TFLOP/s", positive=True, expected="TFLOP/s of one GPU, for example throughput_rest=45"),
        "its speed in decoding and features, mostly slower than networks in half precision; as throughput "
        "unless given",
        None,
    )
    memory: float | None = option(
        CardMemory(),
        "find the largest block_size for a GPU of this memory: a number of GB, or a card such as h100",
        None,
    )
    simulate: tuple[int, ...] | None = option(
        Wholes(1, "{name} is '{word}'; expected a whole number from 1 on"),
        "numbers of workers for which the hours are simulated; needs throughput",
        None,
    )
    manifest: str | None = option(
        PathText("FILE"),
        "write the tasks to this file, one a line, for 'erk-bench task' and a Slurm array",
        None,
    )


def plan(options: PlanOptions, settings: list[str]) -> int:
    from erk_bench.commands.actions import plan as action

    return action.plan(options, settings)


COMMAND = Command(
    name="plan",
    summary="what a run, table or grid would cost, what is done already, which files are missing",
    run=plan,
    options=PlanOptions,
    settings=SWEEP,
    examples="""\
  erk-bench plan seeds=0-49999 schedule.num_steps=16
  erk-bench plan table=digits
  erk-bench plan table=table2 throughput=150                # GPU-hours at 150 TFLOP/s a GPU
  erk-bench plan table=table2 throughput=150 throughput_rest=45   # slower in decoding and features
  erk-bench plan table=table2 memory=24                     # the largest block_size for a GPU of 24 GB
  erk-bench plan model=edm2-img512-xxl-fid track=imagenet512 memory=h100
  erk-bench plan table=table2 throughput=150 --simulate 8,64,1024   # hours for so many workers
  erk-bench plan --manifest sweep.manifest grid=figure4_16  # a line for each task of a Slurm array
  erk-bench plan --manifest sweep.manifest table=table2""",
)
