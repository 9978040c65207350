"""A command of the command line: what it takes, written once, and the function that does it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.commands.options import Flag, OptionType, rows
from erk_bench.commands.settings import Settings, check_words

O = TypeVar("O")  # noqa: E741 - the class of a command's options


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a command that has none."""


def no_check(words: Sequence[str]) -> None:
    """For a command whose bare words only its run can judge."""


@dataclass(frozen=True, kw_only=True)
class Command(Generic[O]):
    """A row of COMMANDS.

    run: does it, with the options and the other words; returns the exit status. What it needs is imported
    inside it, so that help needs none of it. options: a dataclass of `option` fields. settings: which
    settings it takes besides, if any. words: bare words that it takes, as in its usage. known_words: those
    that completion offers. check: refuses wrong ones. examples: lines of help.
    """

    name: str
    summary: str
    run: Callable[[O, list[str]], int]
    examples: str
    options: type[O]
    settings: Settings | None = None
    words: str = ""
    known_words: Callable[[], Iterable[str]] = tuple
    check: Callable[[Sequence[str]], None] = no_check

    @property
    def rows(self) -> dict[str, click.Option]:
        """Its options by the names that users type."""
        return {row.opts[0].removeprefix("--"): row for row in rows(self.options)}

    def parse(self, words: Sequence[str]) -> tuple[O, list[str]]:
        """Its options from NAME=VALUE, --NAME=VALUE or --NAME VALUE, and the other words.

        Raises UserError for a wrong value, and for other words where it takes none.
        """
        found, others = self._parted(words)
        self._check(others)
        parser = click.Command(self.name, params=list(self.rows.values()), add_help_option=False)
        try:
            values = parser.make_context(self.name, found).params
        except click.MissingParameter as error:
            assert error.param is not None
            example = self.examples.split(f"erk-bench {self.name} ")[1].splitlines()[0]
            missing = error.param.opts[0].removeprefix("--")
            raise UserError(f"{missing} is missing; for example {example}") from error
        return self.options(**values), others

    def _parted(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Its options, all as --NAME=VALUE, and the other words."""
        known = self.rows
        found, others = list[str](), list[str]()
        left = list(words)
        while left:
            word = left.pop(0)
            name, equals, value = word.partition("=")
            dashed = name.startswith("--")
            name = name.removeprefix("--").replace("-", "_") if dashed else name
            if name not in known or not (dashed or equals):
                others.append(word)
                continue
            if not equals:
                value = self._following(known[name], left)
            found.append(f"--{name}={value}")
        return found, others

    def _check(self, others: Sequence[str]) -> None:
        """Refuse words that are neither settings nor bare words that the command takes."""
        known = list(self.rows)
        for word in others:
            name = word.lstrip("-").partition("=")[0]
            near = difflib.get_close_matches(name, known, n=1) if word.startswith("--") else []
            if near:
                raise unknown_name("option", f"--{name}", [f"--{each}" for each in known])
        if self.settings:
            bare = [word for word in others if self.words and "=" not in word and word[:1] not in "+~-"]
            check_words([word for word in others if word not in bare], self.settings, own=known)
            self.check(bare)
        elif others and not self.words:
            if not known:
                raise UserError(f"{self.name} takes no settings; got {' '.join(others)}")
            raise unknown_name(f"setting of {self.name}", others[0].partition("=")[0], known)
        else:
            self.check(others)

    def _following(self, row: click.Option, left: list[str]) -> str:
        """The value of --NAME, taken from the words after it; a flag needs none."""
        name = row.opts[0]
        if isinstance(row.type, Flag):
            if left and left[0].lower() in row.type.choices():
                return left.pop(0)
            if left and not self.words and left[0].isalnum():
                raise UserError(f"{name} is '{left[0]}'; write {name} alone for yes, or {name}=false")
            return "true"
        if not left:
            raise UserError(f"{name} needs a value: {name} VALUE")
        return left.pop(0)


def check_places(command: str, words: Sequence[str], known: Iterable[str], example: str) -> None:
    """Refuse words that are no places of files: none at all, and NAME=VALUE unless that is a file's name.

    known: options of the command. example: a whole command.
    """
    if not words:
        raise UserError(f"{command} needs files or folders; for example: {example}")
    for word in words:
        name, equals, _ = word.partition("=")
        if equals and "/" not in name and not Path(word).exists():
            raise unknown_name(f"setting of {command}", name.lstrip("-"), known)


def given(options: Any, names: Sequence[str]) -> list[str]:
    """Those of the options that are not at their defaults, as NAME=VALUE."""
    found = []
    for field in dataclasses.fields(options):
        kind: OptionType[Any] = field.metadata["kind"]
        value, name = getattr(options, field.name), field.name.removesuffix("_")
        if name in names and value != field.default:
            found.append(f"{name}={kind.show(value)}")
    return found
