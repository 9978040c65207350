"""The command line: words in, exit status out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from erk_bench import commands, preparing, stopping, table_command
from erk_bench.composing import compose_config, groups, run_spec, table_file, table_specs
from erk_bench.config_files import config_folder
from erk_bench.errors import UserError, unknown_name
from erk_bench.help import command_help, main_help
from erk_bench.spec import RunSpec


class Command(NamedTuple):
    """A row of COMMANDS. options: the command's own settings with their defaults; the rest are a run's."""

    run: Callable[[dict[str, str], list[str]], int]
    summary: str
    usage: str
    options: Mapping[str, str]


def _one_run(action: Callable[[RunSpec], int]) -> Callable[[dict[str, str], list[str]], int]:
    return lambda options, overrides: action(run_spec(overrides))


def _table(options: dict[str, str], overrides: list[str]) -> int:
    table = table_file(options["table"])
    rows, specs = table_specs(table, overrides, options["rows"], fetch=not options["from"])
    return table_command.table(table, rows, specs, options, as_published=not overrides)


def _plan(options: dict[str, str], overrides: list[str]) -> int:
    if options["table"]:
        specs = table_specs(table_file(options["table"]), overrides, options["rows"], fetch=False)[1]
    else:
        specs = [run_spec(overrides, fetch=False)]
    sets = table_command.whole_number("sets", options["sets"])
    specs = [table_command.shifted(spec, index) for index in range(sets) for spec in specs]
    return preparing.plan(specs, options["throughput"])


def _fetch(options: dict[str, str], words: list[str]) -> int:
    """TRACK as a bare word: its own run and those of its tables; settings alone: the run they compose to."""
    tracks = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    known = groups()["track"]
    for track in tracks:
        if track in groups()["model"]:
            raise UserError(f"'{track}' is a model; write model={track}")
        if track not in known:
            raise unknown_name("track", track, known)
    specs = []
    if options["table"]:
        specs += table_specs(table_file(options["table"]), overrides, fetch=False)[1]
    elif overrides or not tracks:
        specs.append(run_spec(overrides, fetch=False))
    for track in tracks:
        specs.append(run_spec([f"track={track}", *overrides], fetch=False))
        for file in sorted((config_folder() / "table").glob("*.yaml")):
            table = table_file(file.stem)
            if f"track={track}" in table["base"] and table.get("fetch", True):
                specs += table_specs(table, overrides, fetch=False)[1]
    dry_run = preparing.flag("dry_run", options["dry_run"])
    return preparing.fetch(specs, every_detector=bool(tracks), dry_run=dry_run)


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
    return preparing.doctor(groups())


COMMANDS: dict[str, Command] = {
    "run": Command(
        _one_run(commands.run), "generate, extract features and score one run", "[KEY=VALUE ...]", {}
    ),
    "generate": Command(_one_run(commands.generate), "write the images of one run", "[KEY=VALUE ...]", {}),
    "evaluate": Command(
        _one_run(commands.evaluate), "score the images that a run has", "[KEY=VALUE ...]", {}
    ),
    "table": Command(
        _table,
        "run every row of a table, show it, compare it with the reference records",
        "[table=NAME|FILE.yaml] [rows=0-3,7] [sets=N] [from=FOLDER,...] [to=FOLDER] [records=FOLDER] "
        "[KEY=VALUE ...]",
        {"table": "digits", "rows": "", "sets": "1", "from": "", "to": "", "records": ""},
    ),
    "plan": Command(
        _plan,
        "what a run or table would cost, what is done already, which files are missing",
        "[table=NAME|FILE.yaml] [rows=0-3,7] [sets=N] [throughput=TFLOP/s] [KEY=VALUE ...]",
        {"table": "", "rows": "", "sets": "1", "throughput": ""},
    ),
    "fetch": Command(
        _fetch,
        "get the files that a track or run needs into the cache, and verify them",
        "[TRACK] [table=NAME|FILE.yaml] [dry_run=true] [KEY=VALUE ...]",
        {"table": "", "dry_run": "false"},
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
    "convert": Command(
        _convert, "turn a published .pkl checkpoint into .safetensors", "SOURCE.pkl TARGET.safetensors", {}
    ),
    "train-digits": Command(
        _train_digits, "train the networks of the digits track anew", "[KEY=VALUE ...]", {}
    ),
    "doctor": Command(_doctor, "what is installed, found and free on this machine", "", {}),
}


def main(words: Sequence[str] | None = None) -> int:
    """Entry point of `erk-bench`; returns the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        return _dispatch(words)
    except UserError as error:
        print(f"erk-bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("erk-bench: interrupted; finished blocks are kept, run again to go on", file=sys.stderr)
        return 130
    except stopping.Stopped:
        print(
            "erk-bench: stopped as SIGUSR2 asked; finished blocks are kept, run the same command to go on",
            file=sys.stderr,
        )
        return stopping.STATUS
    except BrokenPipeError:  # the reader of our output, such as 'head', has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


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
    options = dict(command.options)
    overrides = []
    for word in rest:
        key, equals, value = word.partition("=")
        if equals and key in options:
            options[key] = value
        else:
            overrides.append(word)
    return command.run(options, overrides)


def entry() -> None:
    """Console script."""
    stopping.listen()
    sys.exit(main())


if __name__ == "__main__":
    entry()
