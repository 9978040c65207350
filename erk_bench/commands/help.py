"""Help texts, drawn from commands and configuration files so that they cannot go stale."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from erk_bench.base.config_files import config_files, config_folder, own_folders
from erk_bench.base.errors import unknown_name
from erk_bench.commands import config_dir
from erk_bench.commands.command import Command
from erk_bench.commands.options import OptionType
from erk_bench.commands.settings import Settings, comments, default_choices, defaults, groups, names, read

WIDTH = 120

# Groups whose settings are shown with the choices that have some; of the others those of the default.
SHOWN = {"guidance": "cfg", "correction": "erk_guid", "tracker": "wandb"}
MANY = "model"  # a group too long to be listed with every command

COMPLETION = """\
tab completion (a line of your shell's start file):
  bash  eval "$(_ERK_BENCH_COMPLETE=bash_source erk-bench)"
  zsh   eval "$(_ERK_BENCH_COMPLETE=zsh_source erk-bench)"
  fish  _ERK_BENCH_COMPLETE=fish_source erk-bench | source"""


def main_help(commands: Mapping[str, Command[Any]]) -> str:
    """What `erk-bench --help` prints."""
    rows = "\n".join(f"  {name:13} {command.summary}" for name, command in commands.items())
    return f"""\
usage: erk-bench COMMAND [KEY=VALUE ...]

Samples diffusion models with chosen solvers and guidance, and measures the result. Everything is kept
under results/runs: stop at any time, and the same command goes on where it was.

commands:
{rows}

first steps:
  erk-bench table                    # the embedded benchmark, start to end, in minutes
  erk-bench grid                     # Figure 4 on digits: which (w_stiff, w_con) are good
  erk-bench plan table=table2        # what the paper's Table 2 would take
  erk-bench run --help               # every setting of a run
  erk-bench run model=my_model.yaml  # settings from a file of your own; --config-dir FOLDER: from a folder
  erk-bench --help models            # every model; also: {", ".join(_plural(group) for group in groups())}

{COMPLETION}
"""


def command_help(command: Command[Any]) -> str:
    """What `erk-bench NAME --help` prints: usage, options and settings with their meaning, examples."""
    summary = f"{command.summary[0].upper()}{command.summary[1:]}."
    parts = [_usage(command), summary]
    if command.rows or command.settings:
        lines = [*_options(command), *_wrapped("config_dir=FOLDER", config_dir.ABOUT)]
        parts.append("options, as NAME=VALUE, --NAME=VALUE or --NAME VALUE:\n" + "\n".join(lines))
    if command.settings and command.settings.file == "run":
        parts += _run_settings()
    elif command.settings:
        parts.append("settings, with these defaults:\n" + "\n".join(_file_settings(command.settings)))
    parts.append(f"examples:\n{command.examples}")
    return "\n\n".join(parts) + "\n"


def topic_help(topic: str) -> str:
    """Every choice of a group and its settings: what `erk-bench --help models` (or model) prints."""
    known = {name: group for group in groups() for name in (group, _plural(group))}
    if topic not in known:
        raise unknown_name("topic of help", topic, [_plural(group) for group in groups()])
    group = known[topic]
    folders = [folder / group for folder in (config_folder(), *own_folders())]
    files = ", ".join(str(folder) for folder in folders if folder.is_dir())
    lines = [f"choices of {group}, chosen with {group}=NAME or {group}=FILE.yaml; their files: {files}"]
    for choice, file in config_files(group).items():
        about = comments(file)
        lines += ["", *_wrapped(f"{group}={choice}", about.get("", ""))]
        if group not in (MANY, "track"):
            content = {group: {key: value for key, value in read(file).items() if key != "name"}}
            lines += _settings(content, {f"{group}.{key}": text for key, text in about.items()}, "    ")
    if group == MANY:
        lines = [line for number, line in enumerate(lines) if line or number == 1]
    return "\n".join(lines) + "\n"


def _plural(group: str) -> str:
    return group if group.endswith("s") else f"{group}s"


def _usage(command: Command[Any]) -> str:
    """Words that must be given first."""
    found = [command.words] if command.words else []
    for required in (True, False):
        for name, row in command.rows.items():
            assert isinstance(row.type, OptionType)
            if row.required == required:
                word = f"{name}={row.type.metavar}"
                found.append(word if required else f"[{word}]")
    if command.settings:
        found.append("[KEY=A,B ...]" if command.settings.several else "[KEY=VALUE ...]")
    start = f"usage: erk-bench {command.name} "
    glued = (word.replace(" ", "\0") for word in found)  # an option is not broken
    text = textwrap.fill(
        " ".join(glued), WIDTH, initial_indent=start, subsequent_indent="    ", break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip
    return text.replace("\0", " ").rstrip() or start.rstrip()


def _options(command: Command[Any]) -> Iterator[str]:
    for name, row in command.rows.items():
        assert isinstance(row.type, OptionType) and row.help is not None
        default = "" if row.required else row.type.show(row.default)
        shown = f"{name}={default}" if default else f"{name}={row.type.metavar}"
        needed = " (needed)" if row.required else ""
        yield from _wrapped(shown, row.help + needed)


def _run_settings() -> list[str]:
    """The parts of help that say what a run can be told."""
    content, about = defaults(), comments(config_folder() / "run.yaml")
    choices = list[str]()
    nested = dict[str, Any]()
    for group, found in groups().items():
        if group == MANY:
            choices += _wrapped(
                f"{group}=NAME", f"one of {len(found)}; 'erk-bench --help {_plural(group)}' lists them"
            )
            continue
        for choice in found:
            choices += _wrapped(f"{group}={choice}", comments(config_files(group)[choice]).get("", ""))
        if group in content:
            file = config_files(group)[SHOWN.get(group) or default_choices()[group]]
            settings = read(file) if group in SHOWN else content[group]
            plain = ((key, value) for key, value in settings.items() if key != "name")
            nested[group] = {key: _resolved(value, content) for key, value in plain}
            about |= {f"{group}.{key}": text for key, text in comments(file).items()}
    own = {key: value for key, value in content.items() if key not in groups()}
    shown = ", ".join(f"{group}={choice}" for group, choice in SHOWN.items())
    return [
        "choices ('erk-bench --help solvers' and the like show the settings of each), or GROUP=FILE.yaml, a "
        "file of your own:\n" + "\n".join(choices),
        f"settings, with the defaults of track={default_choices()['track']} (another sets what its data set "
        "needs):\n" + "\n".join(_settings(own, about)),
        f"settings of a choice (of {shown}, else of the default choice):\n"
        + "\n".join(_settings(nested, about)),
    ]


def _resolved(value: object, content: Any) -> object:
    """The value that ${GROUP.KEY} stands for."""
    match = re.fullmatch(r"\$\{([\w.]+)\}", str(value))
    for part in match[1].split(".") if match else ():
        content = content[part]
    return content if match else value


def _file_settings(settings: Settings) -> list[str]:
    return _settings(defaults(settings.file), comments(config_folder() / f"{settings.file}.yaml"))


def _settings(content: Mapping[str, Any], about: Mapping[str, str], indent: str = "  ") -> list[str]:
    """A line for each setting: KEY=VALUE and what it means."""
    lines = []
    for name in names(content):
        value: Any = content
        for part in name.split("."):
            value = value[part]
        lines += _wrapped(f"{name}={_typed(value)}", about.get(name, ""), indent)
    return lines


def _typed(value: object) -> str:
    """A value of a configuration file as users type it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return text.replace(", ", ",").strip("'") if isinstance(value, (str, list)) else text


def _wrapped(word: str, about: str, indent: str = "  ", column: int = 36) -> list[str]:
    """The word, and what it means beside it, or below where it is long."""
    start = f"{indent}{word}"
    lines = textwrap.wrap(about, WIDTH - column, break_on_hyphens=False, break_long_words=False)
    lines = [" " * column + line for line in lines]
    if lines and len(start) + 2 <= column:
        return [start + lines[0][len(start) :], *lines[1:]]
    return [start, *lines]


def topics(words: Sequence[str]) -> Iterable[str]:
    """The words after --help that ask for a group."""
    known = {name for group in groups() for name in (group, _plural(group))}
    return [word for word in words if word in known]
