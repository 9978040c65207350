"""Options of a command: typed fields of a frozen dataclass, each written once.

    @dataclass(frozen=True, kw_only=True)
    class Options:
        sets: int = option(Whole(), "sets of as many seeds, one after the other", 1)

From this row come parsing, the answer to a wrong value, the line in `--help` and shell completion.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from erk_bench.base.config_files import listing
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.files import check_path

T = TypeVar("T")


def is_whole(text: str) -> bool:
    """Whether a text is a whole number of at most 18 of the digits 0 to 9."""
    return re.fullmatch("[0-9]{1,18}", text) is not None


class OptionType(click.ParamType[T]):
    """What the text of an option means.

    expected: ends the sentence "NAME is 'TEXT'; expected". metavar: stands for the value in help.
    """

    name = "text"
    expected = "a text"
    metavar = "TEXT"

    def parse(self, name: str, text: str) -> T:
        """The value; raises ValueError for a text without one."""
        raise NotImplementedError

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A text as a value. A default is one already; an empty text means it where it is None."""
        assert param is not None
        if not isinstance(value, str):
            return value
        name = param.opts[0].removeprefix("--")
        if value == "" and param.required:
            raise click.MissingParameter(param=param)
        if value == "" and param.default is None:
            return None
        try:
            return self.parse(name, value)
        except UserError:
            raise
        except ValueError as error:
            expected = self.expected.format(name=name)
            raise UserError(f"{name} is '{value[:80]}'; expected {expected}") from error

    def show(self, value: Any) -> str:
        """A value as it is typed; "" for None."""
        return "" if value is None else str(value)

    def choices(self) -> Collection[str]:
        """Values to complete."""
        return ()


class Text(OptionType[str]):
    """Any text. known: makes the values that completion offers."""

    def __init__(self, metavar: str, known: Callable[[], Iterable[str]] = tuple) -> None:
        self.metavar = metavar
        self._known = known

    def parse(self, name: str, text: str) -> str:
        return text

    def choices(self) -> Collection[str]:
        return tuple(self._known())


class PathText(Text):
    """A file or folder, or several with commas between them."""

    def parse(self, name: str, text: str) -> str:
        for path in text.split(","):
            check_path(name, Path(path))
        return text


class ConfigFile(OptionType[str]):
    """A file of configs/GROUP by its name, or one of the user's own by a path ending in .yaml."""

    name = "file"

    def __init__(self, group: str) -> None:
        self.group = group
        self.metavar = "NAME|FILE.yaml"

    def parse(self, name: str, text: str) -> str:
        check_path(name, Path(text))
        named = not text.endswith((".yaml", ".yml")) and "/" not in text  # TRACK/NAME is one of a track
        if named and text not in self.choices():
            raise unknown_name(self.group, text, [*self.choices(), "FILE.yaml"])
        return text

    def choices(self) -> Collection[str]:
        return listing()[self.group]


class Choice(OptionType[str]):
    """One of a few names."""

    name = "choice"

    def __init__(self, *known: str) -> None:
        self.known = known
        self.metavar = "|".join(known)

    def parse(self, name: str, text: str) -> str:
        if text not in self.known:
            raise unknown_name(name, text, self.known)
        return text

    def choices(self) -> Collection[str]:
        return self.known


class Flag(OptionType[bool]):
    """True or false; `--NAME` alone is true."""

    name = "flag"
    expected = "true or false"
    metavar = "true|false"

    def parse(self, name: str, text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"

    def show(self, value: Any) -> str:
        return super().show(value).lower()

    def choices(self) -> Collection[str]:
        return ("true", "false")


class Whole(OptionType[int]):
    """A whole number, `least` or more."""

    name = "whole number"
    metavar = "N"

    def __init__(self, least: int = 1) -> None:
        self.least = least
        self.expected = f"a whole number from {least} on, at most 18 digits"

    def parse(self, name: str, text: str) -> int:
        if not is_whole(text) or int(text) < self.least:
            raise ValueError
        return int(text)


class Number(OptionType[float]):
    """A finite number, 0 or more; above 0 where it is `positive`."""

    name = "number"

    def __init__(
        self, metavar: str, *, positive: bool = False, expected: str = "a number, 0 or more"
    ) -> None:
        self.metavar = metavar
        self.positive = positive
        self.expected = expected

    def parse(self, name: str, text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and value >= 0) or (self.positive and value == 0):
            raise ValueError
        return value

    def show(self, value: Any) -> str:
        return "" if value is None else f"{value:g}"


class Wholes(OptionType[tuple[int, ...]]):
    """Whole numbers with commas between them. told: the error for a `word` of the option `name`."""

    name = "whole numbers"
    metavar = "N,..."

    def __init__(self, least: int, told: str) -> None:
        self.least = least
        self.told = told

    def parse(self, name: str, text: str) -> tuple[int, ...]:
        numbers = []
        for word in text.split(","):
            try:
                numbers.append(Whole(self.least).parse(name, word.strip()))
            except ValueError as error:
                raise UserError(self.told.format(name=name, word=word.strip())) from error
        return tuple(numbers)

    def show(self, value: Any) -> str:
        return ",".join(map(str, value or ()))


class Names(OptionType[tuple[str, ...]]):
    """Names with commas between them."""

    name = "names"

    def __init__(self, metavar: str) -> None:
        self.metavar = metavar

    def parse(self, name: str, text: str) -> tuple[str, ...]:
        return tuple(word.strip() for word in text.split(",") if word.strip())

    def show(self, value: Any) -> str:
        return ",".join(value or ())


class Bounds(OptionType[tuple[float, float]]):
    """LOW:HIGH, from 0 to `most`."""

    name = "bounds"
    metavar = "LOW:HIGH"

    def __init__(self, most: int) -> None:
        self.most = most
        self.expected = f"LOW:HIGH, at most {most:,}, for example {{name}}=0.1:2.5"

    def parse(self, name: str, text: str) -> tuple[float, float]:
        low, high = (float(part) for part in text.split(":"))
        if not 0 <= low < high <= self.most:
            raise ValueError
        return low, high

    def show(self, value: Any) -> str:
        return ":".join(f"{each:g}" for each in value)


# Kinds of several commands.
FOLDER = PathText("FOLDER")
FOLDERS = PathText("FOLDER,...")
ROWS = Text("0-3,7")
TABLE = ConfigFile("table")
GRID = ConfigFile("grid")
DEVICE = Choice("auto", "cpu", "cuda")
STYLE = Choice("screen", "paper")


def option(kind: OptionType[Any], about: str, default: Any = dataclasses.MISSING) -> Any:
    """A field of a command's options. about: one sentence for help. Without a default it must be given."""
    return dataclasses.field(default=default, metadata={"kind": kind, "about": about})


def rows(options: type[Any]) -> list[click.Option]:
    """The fields of an options class as click's options, whose names users type.

    A field ends with an underscore where its name is a word of Python (from_).
    """
    found = []
    for field in dataclasses.fields(options):
        words = [f"--{field.name.removesuffix('_')}", field.name]
        given: dict[str, Any] = {"required": True}
        if field.default is not dataclasses.MISSING:
            given = {"default": field.default}
        found.append(click.Option(words, type=field.metadata["kind"], help=field.metadata["about"], **given))
    return found
