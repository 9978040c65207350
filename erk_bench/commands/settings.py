"""The settings that configs/ offers, read without Hydra: choices, defaults, and answers to wrong words.

Help, completion and errors of typing come from here, because Hydra and torch take seconds to import.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from erk_bench.base.addresses import is_address, is_network
from erk_bench.base.config_files import config_file, config_files, config_folder, is_own, is_path, listing
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.interpolations import check_name, check_value
from erk_bench.base.own_settings import read_own
from erk_bench.base.yaml_files import is_line, read_yaml
from erk_bench.networks.flow_facts import is_setting

NO_RUN_GROUPS = ("table", "grid", "train")  # folders of configs/ that are not part of one run

OWN_CODE = ("solver", "schedule", "guidance", "correction", "model")  # groups that take FILE.py:NAME

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which settings a command takes: those of configs/FILE.yaml. several: also KEY=A,B."""

    file: str
    several: bool = False


RUN = Settings(file="run")
SWEEP = Settings(file="run", several=True)
TRAIN = Settings(file="train/digits")  # the other recipes have the same


def groups() -> dict[str, list[str]]:
    """The configuration groups of a run and their choices."""
    return {group: list(files) for group, files in listing().items() if group not in NO_RUN_GROUPS}


def read(file: Path) -> Mapping[str, Any]:
    """The content of a configuration file, as it stands there. Raises UserError for what is no mapping."""
    return read_own(file) if is_own(file) else _read_shipped(file)


@functools.cache
def _read_shipped(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.load(file.read_bytes(), _Loader)
    except (OSError, ValueError, yaml.YAMLError):
        content = read_yaml(file, "settings")  # slower, and says what is wrong
    if not isinstance(content, dict):
        raise UserError(f"the settings '{file}' are no mapping of names to values")
    return content


def default_choices() -> dict[str, str]:
    """The choice of each group where none is given."""
    entries = [entry for entry in read(config_folder() / "run.yaml")["defaults"] if entry != "_self_"]
    chosen = {group: choice for entry in entries for group, choice in entry.items()}
    for entry in read(config_files("track")[chosen["track"]]).get("defaults", ()):
        for word, choice in entry.items():
            chosen[word.removeprefix("override /")] = choice
    return chosen


def defaults(file: str = "run") -> Mapping[str, Any]:
    """What configs/FILE.yaml composes to where nothing is chosen, as Hydra has it (a test compares)."""
    return _defaults(config_folder() / f"{file}.yaml")


@functools.cache
def _defaults(file: Path) -> Mapping[str, Any]:
    content = dict(read(file))
    if "defaults" not in content:
        return content
    del content["defaults"]
    chosen = default_choices()
    track = read(config_files("track")[chosen.pop("track")])
    content |= {group: read(config_files(group)[choice]) for group, choice in chosen.items()}
    for key, value in track.items():
        if key != "defaults":
            content[key] = {**content[key], **value} if isinstance(value, Mapping) else value
    return content


def comments(file: Path) -> dict[str, str]:
    """What a configuration file says of its settings, by dotted name, and of itself under ''."""
    read(file)  # says in one line what is wrong with a file of the user's own
    found = dict[str, str]()
    path = list[str]()
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and "@package" not in line:
            found.setdefault("", line[2:])
        match = re.match(r"( *)(\w+):(?:.* # (.*))?", line)
        if match:
            path[len(match[1]) // 2 :] = [match[2]]
            found[".".join(path)] = match[3] or ""
    return found


def names(content: Mapping[str, Any], prefix: str = "", *, nodes: bool = False) -> Iterator[str]:
    """The dotted names of the settings in a composed configuration. nodes: those that hold others, too."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            if nodes:
                yield prefix + key
            yield from names(value, f"{prefix}{key}.", nodes=nodes)
        else:
            yield prefix + key


def is_known(key: str, settings: Settings) -> bool:
    """Whether any choice has this setting."""
    if settings.file != "run":
        return key in names(defaults(settings.file), nodes=True)
    group, dot, rest = key.partition(".")
    if not dot or group not in groups() or group == "track":
        return key in groups() or key in names(defaults(), nodes=True)
    return any(rest in names(read(file), nodes=True) for file in config_files(group).values())


def check_words(words: Sequence[str], settings: Settings, own: Collection[str] = ()) -> None:
    """Refuse words that are no settings or choose what is not there. Raises UserError with the nearest name.

    own: options of the command that are suggested before settings.
    """
    choices = groups() if settings.file == "run" else {}
    # The options of a user's own code are in no file; its function says which there are.
    own_code = [kind for kind in OWN_CODE if any(_is_own_code(kind, word) for word in words)]
    networks = [word.partition("=")[0].removesuffix(".path") for word in words if _is_own_network(word)]
    added = ("schedule.sigmas", *(f"{kind}." for kind in (*own_code, *networks)))
    for word in words:
        if not is_line(word):
            raise UserError(f"the setting {word!r} has a line break or control character; leave it out")
        check_value(word, word)
        key, equals, value = word.partition("=")
        if not equals or key != key.lstrip("+~-"):
            raise UserError(f"'{word}' is no setting; {_meant(word, settings)}")
        if key.replace("/", ".").startswith("hydra."):
            raise UserError(f"unknown setting '{key}'; {_meant(word, settings)}")
        check_name(key, word)
        if key in choices:
            several = settings.several and "," in value
            if not several and not _is_own_code(key, word):
                config_file(key, value)
        elif not key.startswith(added) and not is_known(key, settings) and not is_setting(key):
            raise unknown_setting(key, settings, own)


def _is_own_code(kind: str, word: str) -> bool:
    """Whether a word gives code of the user's own for a part of the equation, or for the model."""
    key, _, value = word.partition("=")
    if key == f"{kind}.path":
        return True
    return kind in OWN_CODE and key == kind and (_is_code(kind, value) or _names_code(kind, value))


def _is_code(kind: str, value: str) -> bool:
    return is_network(value) if kind == "model" else is_address(value)


def _names_code(kind: str, choice: str) -> bool:
    """Whether a file of the user's own names code of the user's own."""
    file = Path(choice).expanduser() if is_path(choice) else config_files(kind).get(choice)
    return file is not None and is_own(file) and file.is_file() and bool(read(file).get("path"))


def _is_own_network(word: str) -> bool:
    """Whether a word gives code of the user's own for one of a model's networks."""
    key, _, value = word.partition("=")
    return key.startswith("model.") and key != "model.decoder" and is_network(value)


def unknown_setting(key: str, settings: Settings, own: Collection[str] = ()) -> UserError:
    """The error for a setting that does not exist, naming the nearest option of the command or setting."""
    if difflib.get_close_matches(key, own, n=1):
        return unknown_name("setting", key, own)
    known = [*(groups() if settings.file == "run" else ()), *names(defaults(settings.file))]
    group = f"{key.partition('.')[0]}."
    near = [name for name in known if name.startswith(group)]
    return unknown_name("setting", key, near or [*own, *known])


# Hydra's words that have no KEY=VALUE behind them, and ours in their place.
HYDRAS_OPTIONS = {
    ("--multirun", "-m"): "'erk-bench grid KEY=A,B' runs every combination",
    ("--cfg", "-c", "--info", "-i", "--resolve", "--package", "-p"): (
        "'erk-bench run --cfg' shows the settings that a run has"
    ),
    ("--config-name", "-cn", "--config-path", "-cp", "-cd"): (
        "a run is always configs/run.yaml; a set of settings is track=NAME, table=FILE.yaml ('erk-bench "
        "table') or grid=FILE.yaml ('erk-bench grid'), and --config-dir FOLDER adds a folder of your own"
    ),
    ("--run", "-r"): "'erk-bench run' runs without it",
    ("--hydra-help", "--shell-completion", "-sc"): "see 'erk-bench run --help'",
}  # fmt: skip

HYDRAS_SETTINGS = {
    "hydra.run.": "out=FOLDER says where runs are kept",
    "hydra.sweep.": "out=FOLDER says where runs are kept",
    "hydra.launcher.": (
        "'slurm/launch.sh table=NAME' uses a cluster; 'python -m erk_bench.multirun' takes Hydra's launchers"
    ),
    "hydra.sweeper.": "'erk-bench grid' and 'erk-bench search' go through values",
    "hydra.": "'python -m erk_bench.multirun' takes Hydra's settings",
}


def _meant(word: str, settings: Settings) -> str:
    """The end of the error for a word that is no KEY=VALUE: our word for what was meant, or an example."""
    key, equals, value = word.partition("=")
    plain = key.lstrip("+~-")
    for options, answer in HYDRAS_OPTIONS.items():
        if key in options:
            return f"it is Hydra's: {answer}"
    for prefix, answer in HYDRAS_SETTINGS.items():
        if f"{plain.replace('/', '.')}.".startswith(prefix):
            return f"it is Hydra's: {answer}"
    example = f"{plain}={value}" if equals else "solver=heun"
    if settings.file != "run":
        example = f"{plain}={value}" if equals else "workers=2"
    if key.startswith("+") and not is_known(plain, settings):
        return (
            "nothing is added with + here: write KEY=VALUE for a setting that 'erk-bench run --help' lists; "
            "a set of settings is track=NAME, or a row of table=FILE.yaml ('erk-bench table')"
        )
    if key.startswith("~"):
        example = example if equals else "guidance=none"
        return f"nothing is taken away with ~ here: write KEY=VALUE, for example {example}"
    if key.startswith("-") and not equals and is_known(plain, settings):
        example = f"{plain}=VALUE"
    return f"write KEY=VALUE, for example {example}"
