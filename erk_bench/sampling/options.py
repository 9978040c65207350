"""Options of solvers, schedules, guidances and corrections: what each may be, and the rows they belong to.

A function's options are its keyword-only arguments; their defaults stand there and nowhere else.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from erk_bench.base.errors import UserError, unknown_name

LEVELS = "levels"  # a keyword-only argument of this name is given all noise levels of the run


class Numbers(NamedTuple):
    """Numbers that an option may be: low to high, the ends included unless it is open.

    infinite: an infinite end is one of them.
    """

    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    infinite: bool = False

    def holds(self, value: object) -> bool:
        """Whether the value is one of them."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if not math.isfinite(value) and not self.infinite:
            return False
        return self.low < value < self.high if self.open else self.low <= value <= self.high

    def __str__(self) -> str:
        if self.open:
            return f"between {self.low:g} and {self.high:g}"
        if math.isinf(self.high):
            finite = "" if self.infinite else ", and finite"
            return "a finite number" if math.isinf(self.low) else f"{self.low:g} or more{finite}"
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"


class Several(NamedTuple):
    """Lists of numbers that an option may be, of `fewest` to `most` entries."""

    each: Numbers
    fewest: int
    most: int

    def holds(self, value: object) -> bool:
        """Whether the value is one of them."""
        if not isinstance(value, (list, tuple)) or not self.fewest <= len(value) <= self.most:
            return False
        return all(self.each.holds(item) for item in value)

    def __str__(self) -> str:
        return f"a list of {self.fewest} to {self.most} numbers, each {self.each}"


class Instance(NamedTuple):
    """A value of a class, or None; in Python only, since no text means it. about: what errors call it."""

    kind: type[Any]
    about: str

    def holds(self, value: object) -> bool:
        """Whether the value is one."""
        return value is None or isinstance(value, self.kind)

    def __str__(self) -> str:
        return self.about


Allowed = tuple[object, ...] | range | Numbers | Several | Instance


class Row(Protocol):
    """A row of a table: its function, and what the function's options may be."""

    @property
    def function(self) -> Callable[..., Any]: ...

    @property
    def options(self) -> Mapping[str, Allowed]: ...


R = TypeVar("R", bound=Row)


class Part(NamedTuple, Generic[R]):
    """A row under its name, with options that differ from its defaults."""

    name: str
    row: R
    options: Mapping[str, Any] = {}

    def bound(self, levels: tuple[float, ...] = ()) -> Callable[..., Any]:
        """The row's function with its options, for a run at these noise levels (the final zero excluded)."""
        extra = {LEVELS: levels} if LEVELS in inspect.signature(self.row.function).parameters else {}
        return functools.partial(self.row.function, **self.options, **extra)


@functools.lru_cache(maxsize=256)
def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    found = inspect.signature(function).parameters.values()
    return {
        item.name: item.default for item in found if item.kind is item.KEYWORD_ONLY and item.name != LEVELS
    }


def defaults_of(row: Row) -> dict[str, Any]:
    """The options of a row with their default values."""
    return dict(_defaults(row.function))


def choose(
    kind: str,
    table: Mapping[str, R],
    choice: str | R | Callable[..., Any],
    options: Mapping[str, Any],
    own: Callable[[Callable[..., Any]], R],
    name: str = "",
) -> Part[R]:
    """The row that is chosen by its name in the table, given itself, or made by `own` of a function.

    kind: what errors call it. name: what errors call a row or function that was given itself.
    Raises UserError for an unknown name, an unknown option, or a value that an option may not take.
    """
    row: R
    if isinstance(choice, str):
        if choice not in table:
            raise unknown_name(kind, choice, table)
        row, name = table[choice], choice
    elif hasattr(choice, "function"):
        row = choice  # type: ignore[assignment]  # a row is what has a function
    else:
        row = own(choice)
    name = name or getattr(row.function, "__name__", "of your own")
    check_options(kind, name, row, options)
    return Part(name, row, dict(options))


def _like(value: object, default: object) -> bool:
    """Whether a value has the type of a default; whole numbers serve as floats."""
    return type(value) is type(default) or (type(value) is int and type(default) is float)


def check_options(kind: str, name: str, row: Row, options: Mapping[str, object]) -> None:
    """Refuse options that the row, called `name`, does not have, or values that they may not take."""
    defaults = _defaults(row.function)
    if any(item.kind is item.VAR_KEYWORD for item in inspect.signature(row.function).parameters.values()):
        return  # takes any, and only running it would tell
    for option, value in options.items():
        if option not in defaults:
            raise UserError(
                f"{kind} '{name}' has no option '{option}'; it has: {', '.join(defaults) or 'none'}"
            )
        allowed = row.options.get(option)
        shown = list(value) if isinstance(value, tuple) else value
        told = f"{kind}.{option} is {shown}; with {kind} '{name}' it must be"
        if isinstance(allowed, (Numbers, Several, Instance)):
            if not allowed.holds(value):
                raise UserError(f"{told} {allowed}")
        elif isinstance(allowed, range):
            if isinstance(value, bool) or value not in allowed:
                raise UserError(f"{told} {allowed[0]} to {allowed[-1]}")
        elif allowed is not None:
            if not any(value == each and type(value) is type(each) for each in allowed):
                raise unknown_name(f"{kind}.{option} of '{name}'", str(value), list(map(str, allowed)))
        elif not _like(value, defaults[option]):
            kind_of = type(defaults[option]).__name__
            raise UserError(f"{kind}.{option} is {value!r}; expected {kind_of}, as {defaults[option]!r} is")
