"""`erk-bench task`: one line of a manifest."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erk_bench.base.config_files import searching
from erk_bench.base.errors import UserError
from erk_bench.commands import config_dir
from erk_bench.commands.command import Command, NoOptions
from erk_bench.commands.grid import COMMAND as GRID
from erk_bench.commands.grid import GridOptions
from erk_bench.commands.options import is_whole
from erk_bench.commands.run import COMMAND as RUN

COMMANDS: dict[str, Command[Any]] = {each.name: each for each in (RUN, GRID)}  # of a line


def task(options: NoOptions, words: list[str]) -> int:
    """Line N of a manifest; without N, check that every line still composes."""
    from erk_bench.commands.tracking import SWEEP
    from erk_bench.studies import manifest as manifests

    path = Path(words[0]).expanduser()
    lines = manifests.read_manifest(path)
    if len(words) == 2 and not (is_whole(words[1]) and int(words[1]) < len(lines)):
        raise UserError(f"'{path}' has no line {words[1]}; it has lines 0 to {len(lines) - 1}")
    chosen = [int(words[1])] if len(words) == 2 else range(len(lines))
    for number in chosen:
        try:
            _compose(lines[number])
        except UserError as error:
            raise UserError(
                f"line {number} of '{path}' no longer composes: {error}. The line is: "
                f"{shlex.join(lines[number])}"
            ) from error
    if len(words) == 2:
        print(f"task {words[1]} of {path}: erk-bench {shlex.join(lines[chosen[0]])}", flush=True)
        os.environ[SWEEP] = manifests.sweep_name(path)
        name, *rest = lines[chosen[0]]
        folders, rest = config_dir.parted(rest)
        with searching(folders):
            return COMMANDS[name].run(*COMMANDS[name].parse(rest))
    for number in chosen:
        print(f"{number}: erk-bench {shlex.join(lines[number])}")
    return 0


def _check(words: Sequence[str]) -> None:
    if not 1 <= len(words) <= 2:
        raise UserError(f"task takes a manifest and the number of a line; got {len(words)} words")


def _compose(line: list[str]) -> None:
    """Compose what a line would run."""
    from erk_bench.commands.compose import run_spec
    from erk_bench.commands.compose_studies import grid_cells, grid_file

    name, *rest = line
    folders, rest = config_dir.parted(rest)
    with searching(folders):
        options, settings = COMMANDS[name].parse(rest)
        if isinstance(options, GridOptions):
            grid_cells(grid_file(options.grid), settings, fetch=False)
        else:
            run_spec(settings, fetch=False)


COMMAND = Command(
    name="task",
    summary="run one line of a manifest that 'plan --manifest' wrote, or check all of them",
    run=task,
    options=NoOptions,
    words="MANIFEST [LINE]",
    check=_check,
    examples="""\
  erk-bench task sweep.manifest                             # list the lines, checking each
  erk-bench task sweep.manifest 3                           # run one""",
)
