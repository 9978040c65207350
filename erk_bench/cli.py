"""The command line. Hydra composes configurations here and nowhere else; below there are only specs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from erk_bench import commands
from erk_bench.config_files import config_folder
from erk_bench.errors import UserError, unknown_name
from erk_bench.help import command_help, main_help
from erk_bench.networks.checkpoint import file_sha256
from erk_bench.sampling.guidance import GUIDANCES
from erk_bench.spec import RunSpec, build
from erk_bench.stages import check_names
from erk_bench.storage.assets import locate

NO_RUN_GROUPS = ("table",)  # folders of configs/ that are not part of one run


def groups() -> dict[str, list[str]]:
    """The configuration groups of a run and their choices."""
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in sorted(config_folder().iterdir())
        if folder.is_dir() and folder.name not in NO_RUN_GROUPS
    }


def compose_config(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """configs/NAME.yaml with overrides, as plain values. Raises UserError suggesting the nearest name."""
    choices = groups() if name == "run" else {}
    chosen = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key != key.lstrip("+~-"):
            plain = f"{key.lstrip('+~-')}={value}" if equals else "solver=heun"
            raise UserError(f"'{override}' is no setting; write KEY=VALUE, for example {plain}")
        if key in choices:
            if value not in choices[key]:
                raise unknown_name(key, value, choices[key])
            chosen.append(override)
    try:
        return _compose(name, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        known = [*choices, *_dotted(_compose(name, chosen))]
        for override in overrides:
            key = override.partition("=")[0]
            if key not in known:
                raise unknown_name("setting", key, known) from error
        raise UserError(
            f"cannot read the settings {' '.join(overrides)} ({str(error).splitlines()[0]}); give one value "
            "a setting, and put quotes around special characters: model.name=\"'x,y'\""
        ) from error


def _compose(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder().resolve()), version_base="1.3"):
        config = compose(name, list(overrides))
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _dotted(content: Mapping[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            names += _dotted(value, f"{prefix}{key}.")
        else:
            names.append(prefix + key)
    return names


def run_spec(overrides: Sequence[str]) -> RunSpec:
    """The RunSpec that configs/run.yaml and the overrides compose to; weights' hashes are filled in."""
    content = compose_config("run", overrides)
    model = content["model"]
    guidance = content["guidance"]
    guides = {role: model.pop(role, None) for role in GUIDANCES.values() if role}
    role = GUIDANCES.get(str(guidance["name"]))
    if role and guidance["weight"] != 1 and guides[role]:
        guidance["guide"] = _with_hash(guides[role], f"model.{role}")
    model["weights"] = _with_hash(model["weights"], "model.weights")
    spec = build(RunSpec, content)
    check_names(spec)
    return spec


def _with_hash(weights: object, where: str) -> dict[str, Any]:
    """Weights without a pinned sha256 are taken as they are, and identified by their present hash."""
    if not isinstance(weights, Mapping) or not isinstance(weights.get("path"), str):
        raise UserError(f"{where} is {weights!r}; set its file: {where}.path=FILE")
    return {**weights, "sha256": weights.get("sha256") or file_sha256(locate(str(weights["path"])))}


def table_file(name: str) -> dict[str, Any]:
    """configs/table/NAME.yaml."""
    files = {file.stem: file for file in sorted((config_folder() / "table").glob("*.yaml"))}
    if name not in files:
        raise unknown_name("table", name, files)
    content: dict[str, Any] = yaml.safe_load(files[name].read_text())
    return content


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
    rows = [run_spec([*table["base"], *row, *overrides]) for row in table["rows"]]
    return commands.table(table, rows, options, as_published=not overrides)


def _plan(options: dict[str, str], overrides: list[str]) -> int:
    if not options["table"]:
        return commands.plan([run_spec(overrides)])
    table = table_file(options["table"])
    return commands.plan([run_spec([*table["base"], *row, *overrides]) for row in table["rows"]])


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
    return commands.doctor(groups())


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
        "[table=NAME] [from=FOLDER] [to=FOLDER] [records=FOLDER] [KEY=VALUE ...]",
        {"table": "digits", "from": "", "to": "", "records": ""},
    ),
    "plan": Command(
        _plan,
        "what a run or table would cost, and what is done already",
        "[table=NAME] [KEY=VALUE ...]",
        {"table": ""},
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
    sys.exit(main())


if __name__ == "__main__":
    entry()
