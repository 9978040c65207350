"""The commands of `erk-bench`, one a file; importing them imports nothing that takes long."""

from __future__ import annotations

from typing import Any

from erk_bench.commands import (
    analyze,
    compare,
    convert,
    doctor,
    evaluate,
    export,
    fetch,
    fid,
    generate,
    grid,
    plan,
    qualitative,
    records,
    reference,
    report,
    run,
    schedule,
    score,
    search,
    statistics,
    table,
    task,
    train,
)
from erk_bench.commands.command import Command

COMMANDS: dict[str, Command[Any]] = {
    each.COMMAND.name: each.COMMAND
    for each in (
        run, generate, evaluate, score, fid, compare, table, grid, search, schedule, statistics, records,
        report, analyze, plan, task, fetch, reference, export, qualitative, convert, train, doctor,
    )
}  # fmt: skip

FORMER = {"train-digits": "train"}  # names that commands had
