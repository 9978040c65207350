"""The command line: words in, exit status out."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from erk_bench import entry as program

if __name__ == "__main__":  # before the imports below, which take seconds
    program.prepare()

from erk_bench import actions, commands, doctor, preparing
from erk_bench.base import stopping, terminal
from erk_bench.base.errors import DamagedError, UserError, unknown_name
from erk_bench.base.files import check_path
from erk_bench.composing import (
    compose_config,
    grid_cells,
    grid_file,
    groups,
    run_spec,
)
from erk_bench.help import command_help, main_help
from erk_bench.settings import is_whole
from erk_bench.studies import manifest as manifests


class Command(NamedTuple):
    """A row of COMMANDS. options: the command's own settings with their defaults; the rest are a run's."""

    run: Callable[[dict[str, str], list[str]], int]
    summary: str
    usage: str
    options: Mapping[str, str]


def _task(options: dict[str, str], words: list[str]) -> int:
    """Line N of a manifest; without N, check that every line still composes."""
    if not 1 <= len(words) <= 2:
        raise UserError(f"task takes a manifest and the number of a line; got {len(words)} words")
    path = Path(words[0]).expanduser()
    lines = manifests.read_manifest(path)
    if len(words) == 2 and not (is_whole(words[1]) and int(words[1]) < len(lines)):
        raise UserError(f"'{path}' has no line {words[1]}; it has lines 0 to {len(lines) - 1}")
    chosen = [int(words[1])] if len(words) == 2 else range(len(lines))
    for number in chosen:
        name, *rest = lines[number]
        try:
            settings, overrides = _parted(COMMANDS[name].options, rest)
            if name == "grid":
                grid_cells(grid_file(settings["grid"]), overrides, fetch=False)
            else:
                run_spec(overrides, fetch=False)
        except UserError as error:
            raise UserError(
                f"line {number} of '{path}' no longer composes: {error}. The line is: "
                f"{shlex.join(lines[number])}"
            ) from error
    if len(words) == 2:
        print(f"task {words[1]} of {path}: erk-bench {shlex.join(lines[chosen[0]])}", flush=True)
        os.environ[actions.SWEEP] = manifests.sweep_name(path)
        return _dispatch(lines[chosen[0]])
    for number in chosen:
        print(f"{number}: erk-bench {shlex.join(lines[number])}")
    return 0


def _reference(options: dict[str, str], overrides: list[str]) -> int:
    if overrides:
        raise unknown_name(
            "setting of reference", overrides[0].partition("=")[0], COMMANDS["reference"].options
        )
    return preparing.reference(options)


def _convert(options: dict[str, str], words: list[str]) -> int:
    if len(words) != 2:
        raise UserError(f"convert takes two paths, SOURCE and TARGET.safetensors; got {len(words)}")
    return commands.convert(Path(words[0]), Path(words[1]))


def _train_digits(options: dict[str, str], overrides: list[str]) -> int:
    return commands.train_digits(compose_config("train_digits", overrides))


def _export(options: dict[str, str], overrides: list[str]) -> int:
    return commands.export(run_spec(overrides), options["format"], options["to"])


def _doctor(options: dict[str, str], overrides: list[str]) -> int:
    if overrides:
        raise UserError(f"doctor takes no settings; got {' '.join(overrides)}")
    return doctor.doctor(groups())


COMMANDS: dict[str, Command] = {
    "run": Command(actions.run, "generate, extract features and score one run", "[KEY=VALUE ...]", {}),
    "generate": Command(
        actions.one_run(commands.generate), "write the images of one run", "[KEY=VALUE ...]", {}
    ),
    "evaluate": Command(
        actions.one_run(commands.evaluate), "score the images that a run has", "[KEY=VALUE ...]", {}
    ),
    "table": Command(
        actions.table,
        "run every row of a table, show it, compare it with the reference records",
        "[table=NAME|FILE.yaml] [rows=0-3,7] [sets=N] [from=FOLDER,...] [to=FOLDER] [records=FOLDER] "
        "[sampling=true|false] [columns=NAME,...] [style=screen|paper] [KEY=VALUE ...]",
        {
            "table": "digits",
            "rows": "",
            "sets": "1",
            "from": "",
            "to": "",
            "records": "",
            "sampling": "true",
            "columns": "",
            "style": "screen",
        },
    ),
    "grid": Command(
        actions.grid,
        "run every cell of a grid with shared trajectories, show the best, draw the figures",
        "[grid=NAME|FILE.yaml] [from=FOLDER,...] [to=FOLDER] [records=FOLDER] [sampling=true|false] "
        "[views=true|false] [style=screen|paper] [AXIS=VALUE,VALUE,...] [KEY=VALUE ...]",
        {
            "grid": "digits",
            "from": "",
            "to": "",
            "records": "",
            "sampling": "true",
            "views": "true",
            "style": "screen",
        },
    ),
    "search": Command(
        actions.search,
        "find good w_stiff and w_con of ERK-Guid for a run within a budget",
        "[budget=EVALUATIONS] [w_stiff=LOW:HIGH] [w_con=LOW:HIGH] [first=IMAGES] [factor=N] [batch=N] "
        "[search_seed=N] [to=FOLDER] [KEY=VALUE ...]",
        {
            "budget": "",
            "w_stiff": "0.1:2.5",
            "w_con": "0:2",
            "first": "",
            "factor": "2",
            "batch": "8",
            "search_seed": "1",
            "to": "",
        },
    ),
    "analyze": Command(
        actions.analyze,
        "how stiff a model's trajectories are, and whether the solver sees it: figure and CSV",
        "[images=N] [iterations=N] [to=FOLDER] [KEY=VALUE ...]",
        {"images": "16", "iterations": "50", "to": ""},
    ),
    "plan": Command(
        actions.plan,
        "what a run, table or grid would cost, what is done already, which files are missing",
        "[table=NAME|FILE.yaml | grid=NAME|FILE.yaml] [rows=0-3,7] [sets=N] [throughput=TFLOP/s] "
        "[--simulate WORKERS,...] [--manifest FILE] [KEY=VALUE ...]",
        {
            "table": "",
            "grid": "",
            "rows": "",
            "sets": "1",
            "throughput": "",
            "simulate": "",
            "manifest": "",
        },
    ),
    "task": Command(
        _task,
        "run one line of a manifest that 'plan --manifest' wrote, or check all of them",
        "MANIFEST [LINE]",
        {},
    ),
    "fetch": Command(
        actions.fetch,
        "get the files that a track or run needs into the cache, and verify them",
        "[TRACK] [table=NAME|FILE.yaml] [grid=NAME|FILE.yaml] [dry_run=true] [KEY=VALUE ...]",
        {"table": "", "grid": "", "dry_run": "false"},
    ),
    "reference": Command(
        _reference,
        "make reference statistics (and features) from real images",
        "source=FOLDER|FILE.zip|SHARDS*.tar resolution=N to=FILE.safetensors [detectors=NAME,...] "
        "[keep_features=true] [limit=N] [shuffle_seed=N] [batch=N] [device=auto]",
        {
            "source": "",
            "resolution": "",
            "to": "",
            "detectors": "inception,dinov2_torch",
            "keep_features": "false",
            "limit": "",
            "shuffle_seed": "",
            "batch": "50",
            "device": "auto",
            "offline": "false",
        },
    ),
    "export": Command(
        _export,
        "write a run's images as a PNG folder or a guided-diffusion .npz",
        "[format=png|npz] [to=PATH] [KEY=VALUE ...]",
        {"format": "png", "to": ""},
    ),
    "qualitative": Command(
        actions.draw_qualitative,
        "draw a diffusers pipeline with and without ERK-Guid side by side: PNG and HTML",
        "[model=NAME|FOLDER] [prompts=TEXT|FILE.txt | classes=N,...] [seeds=N,...] [steps=N] "
        "[solver=dpm2|heun] [w_stiff=W] [w_con=W] [guidance=W] [device=auto] [to=FOLDER]",
        {
            "model": "pixart_alpha",
            "prompts": "",
            "classes": "",
            "seeds": "0",
            "steps": "10",
            "solver": "dpm2",
            "w_stiff": "0.5",
            "w_con": "0.5",
            "guidance": "",
            "device": "auto",
            "to": "results/figures",
        },
    ),
    "convert": Command(
        _convert, "turn a published .pkl checkpoint into .safetensors", "SOURCE.pkl TARGET.safetensors", {}
    ),
    "train-digits": Command(
        _train_digits, "train the networks of the digits track anew", "[KEY=VALUE ...]", {}
    ),
    "doctor": Command(_doctor, "what is installed, found and free on this machine", "", {}),
}

PATHS = ("from", "grid", "manifest", "records", "source", "table", "to")  # options that are paths
HEALINGS = 3  # more would mean a disk that cannot be used


def main(words: Sequence[str] | None = None) -> int:
    """Entry point of `erk-bench`; returns the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        return _healed(words)
    except UserError as error:
        print(f"erk-bench: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return _ended(stopping.INTERRUPTED)
    except stopping.Terminated:
        return _ended(stopping.TERMINATED)
    except stopping.Stopped:
        return _ended(stopping.STATUS)
    except BrokenPipeError:  # the reader of our output, such as 'head', has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"erk-bench: '{str(error.filename)[:40]}...' is too long for a file name", file=sys.stderr)
        return UserError.status


def _ended(status: int) -> int:
    print(f"erk-bench: {stopping.MESSAGES[status]}", file=sys.stderr)
    return status


def _healed(words: list[str]) -> int:
    """Run a command; where it finds damaged files, which it sets aside, once more to make them anew."""
    for _ in range(HEALINGS):
        try:
            return _dispatch(words)
        except DamagedError as error:
            print(f"warning: {error}", file=sys.stderr)
    return _dispatch(words)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(main_help(COMMANDS))
        return 0
    name, *rest = words
    if name == "--version":
        return commands.version()
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    command = COMMANDS[name]
    if "-h" in rest or "--help" in rest:
        print(command_help(name, command, groups()))
        return 0
    options, overrides = _parted(command.options, rest)
    for key in PATHS:
        for path in options.get(key, "").split(","):
            check_path(key, Path(path))
    return command.run(options, overrides)


def _parted(known: Mapping[str, str], words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """A command's own settings, as NAME=VALUE, --NAME=VALUE or --NAME VALUE, and the other words."""
    options, others = dict(known), list[str]()
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        dashed = name.startswith("--") and name[2:] in known
        if dashed and not equals:
            if not left:
                raise UserError(f"{name} needs a value: {name} VALUE")
            value = left.pop(0)
        if dashed or (equals and name in known):
            options[name.removeprefix("--")] = value
        else:
            others.append(word)
    return options, others


def entry() -> None:
    """The command: returns its status to the system."""
    program.prepare()
    stopping.listen()
    status = main()
    error = terminal.lost()
    if error is not None:
        print(
            f"erk-bench: the output could not be written ({error.strerror}); the files are there",
            file=sys.stderr,
        )
    sys.exit(status or int(error is not None))


if __name__ == "__main__":
    entry()
