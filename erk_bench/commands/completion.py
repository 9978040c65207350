"""Tab completion of commands, options, settings and their values, in bash, zsh and fish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from erk_bench.base.config_files import searching
from erk_bench.base.errors import UserError
from erk_bench.commands import config_dir
from erk_bench.commands.command import Command
from erk_bench.commands.options import OptionType
from erk_bench.commands.settings import defaults, groups, names

VARIABLE = "_ERK_BENCH_COMPLETE"  # in the environment, set by the scripts that shells read
PROGRAM = "erk-bench"


def candidates(commands: Mapping[str, Command[Any]], before: Sequence[str], word: str) -> list[str]:
    """What `word` may become after the words `before`; KEY= and a space after what is whole.

    None where a folder of the user's own cannot be read.
    """
    try:
        folders, before = config_dir.parted(before)
        with searching(folders):
            return _candidates(commands, before, word)
    except UserError:
        return []


def _candidates(commands: Mapping[str, Command[Any]], before: Sequence[str], word: str) -> list[str]:
    if not before:
        return [f"{name} " for name in (*commands, "--help", "--version") if name.startswith(word)]
    command = commands.get(before[0])
    if command is None:
        return []
    name, equals, value = word.partition("=")
    if not equals:
        dashes = "--" if word.startswith("-") else ""
        found = [f"{dashes}{name}=" for name in (*command.rows, "config_dir")]
        found += ["--help "] if dashes else [f"{name} " for name in command.known_words()]
        if command.settings and not dashes:
            found += [f"{name}=" for name in _settings(command)]
        return [each for each in found if each.startswith(word)]
    return [f"{name}={each} " for each in _values(command, name.removeprefix("--")) if each.startswith(value)]


def _settings(command: Command[Any]) -> Iterator[str]:
    assert command.settings is not None
    if command.settings.file == "run":
        yield from groups()
    yield from (name for name in names(defaults(command.settings.file)) if not name.endswith(".name"))


def _values(command: Command[Any], name: str) -> Sequence[str]:
    row = command.rows.get(name)
    if row is not None:
        assert isinstance(row.type, OptionType)
        return tuple(row.type.choices())
    if command.settings is None:
        return ()
    value: Any = defaults(command.settings.file)
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if command.settings.file == "run" and name in groups():
        return groups()[name]
    return ("true", "false") if isinstance(value, bool) else ()


class _Ours(ShellComplete):
    """click's scripts and protocol, with our candidates."""

    commands: Mapping[str, Command[Any]]
    splits = False  # whether the shell takes '=' as a word of its own

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        before, word = list(args), incomplete
        start = ""
        if self.splits:
            glued = _glued([*before, word])
            before, word = glued[:-1], glued[-1]
            start = word[: word.rfind("=") + 1]  # the shell has it already
        found = candidates(self.commands, before, word)
        if not found:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(each.removeprefix(start)) for each in found]


def _glued(words: Sequence[str]) -> list[str]:
    """KEY=VALUE from KEY, =, VALUE."""
    found = [words[0]] if words else [""]
    for word, last in zip(words[1:], words, strict=False):
        if word == "=" or last == "=":
            found[-1] += word
        else:
            found.append(word)
    return found


class _Bash(_Ours, BashComplete):
    splits = True
    source_template = BashComplete.source_template.replace("-o nosort", "-o nosort -o nospace")


class _Zsh(_Ours, ZshComplete):
    source_template = ZshComplete.source_template.replace("compadd -U", "compadd -Q -S '' -U").replace(
        "_path_files", "compset -P 1 '*='; _path_files"
    )


class _Fish(_Ours, FishComplete):
    def format_completion(self, item: CompletionItem[str]) -> str:
        return super().format_completion(item).rstrip()  # it adds spaces itself


SHELLS: dict[str, type[_Ours]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def complete(commands: Mapping[str, Command[Any]], instruction: str) -> str:
    """What a shell asked for: bash_source, its script, or bash_complete, the candidates (or zsh, fish)."""
    shell, _, what = instruction.partition("_")
    if shell not in SHELLS or what not in ("source", "complete"):
        return ""
    ours = SHELLS[shell](click.Command(PROGRAM), {}, PROGRAM, VARIABLE)
    ours.commands = commands
    return ours.source() if what == "source" else ours.complete()
