"""Fields of specs and their roles; specs from and to plain values.

A field is identity (it changes the samples and enters `run_id`), an extension (identity that came later), or
execution detail (it says where, how fast or what to measure).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Any, TypeVar

from erk_bench.base.errors import UserError, unknown_name

T = TypeVar("T")


def identity(default: Any = dataclasses.MISSING) -> Any:
    """A field that changes the samples."""
    return field(default=default, metadata={"role": "identity"})


def extension(default: Any) -> Any:
    """A field that changes the samples and came after PROTOCOL 1.

    It enters `run_id` only where it differs from its default, so that earlier runs keep their names.
    """
    return field(default=default, metadata={"role": "extension"})


def execution(default: Any = dataclasses.MISSING, *, later: bool = False) -> Any:
    """A field that does not change the samples. later: `to_dict` leaves a default out, as before."""
    return field(default=default, metadata={"role": "execution", "later": later})


def identity_fields(value: Any) -> dict[str, Any]:
    """The identity fields of a spec, nested, as plain JSON values."""
    return {
        item.name: _plain(getattr(value, item.name), identity_fields)
        for item in dataclasses.fields(value)
        if item.metadata["role"] == "identity"
        or (item.metadata["role"] == "extension" and getattr(value, item.name) != item.default)
    }


def to_dict(value: Any, *, every: bool = False) -> dict[str, Any]:
    """All fields of a spec, nested, as plain JSON values; `build` is the inverse.

    every: also the defaults of fields that came later.
    """
    nested = functools.partial(to_dict, every=every)
    return {
        item.name: _plain(getattr(value, item.name), nested)
        for item in dataclasses.fields(value)
        if every or not item.metadata.get("later") or getattr(value, item.name) != item.default
    }


def _plain(value: Any, nested: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return nested(value)
    if isinstance(value, tuple):
        return [_plain(item, nested) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    return value


def build(kind: type[T], content: Mapping[str, Any], where: str = "") -> T:
    """A spec dataclass from nested plain values, checking names and types.

    Raises UserError naming the field, its value and what was expected.
    """
    hints = _type_hints(kind)  # type: ignore[arg-type]  # a class is hashable
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]  # kind is a dataclass
    for name in content:
        if name not in fields:
            raise unknown_name(f"field in {where or 'the run'}", name, fields)
    values = {}
    for name, item in fields.items():
        path = f"{where}.{name}" if where else name
        if name in content:
            values[name] = _convert(hints[name], content[name], path)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise UserError(f"{path} is missing; give it a value, for example {path}=...")
    return kind(**values)


@functools.cache
def _type_hints(kind: type[Any]) -> dict[str, Any]:
    """The fields' types; evaluating them takes most of the time of reading a record."""
    return typing.get_type_hints(kind)


def _one_of(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if type(value) not in kinds:
        raise UserError(f"{path} is {value!r}; expected one of: {', '.join(kind.__name__ for kind in kinds)}")
    return value


def _convert(hint: Any, value: Any, path: str) -> Any:
    if isinstance(hint, types.UnionType):
        kinds = tuple(option for option in typing.get_args(hint) if option is not type(None))
        if value is None and type(None) in typing.get_args(hint):
            return None
        if isinstance(value, (list, tuple)):
            kinds = tuple(kind for kind in kinds if typing.get_origin(kind) is tuple) or kinds
        if len(kinds) > 1:
            return _one_of(kinds, value, path)
        (hint,) = kinds
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(typing.cast("type[Any]", hint), value, path)
    if typing.get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        kinds = typing.get_args(hint)
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(kinds) == len(value):
            return tuple(
                _convert(kind, item, f"{path}[{index}]")
                for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
            )
    if typing.get_origin(hint) is Mapping and isinstance(value, Mapping):
        kind = typing.get_args(hint)[1]
        return {key: _convert(kind, item, f"{path}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if -sys.float_info.max <= value <= sys.float_info.max or value in (math.inf, -math.inf):
            return float(value)
    elif hint is float and value == "inf":
        return math.inf
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    if path == "seeds":
        raise UserError(f"seeds is {value!r}; expected FIRST-LAST, for example 0-1999")
    if typing.get_origin(hint) is tuple:
        shown = "a list, for example " + ("[0.2,2.0]" if float in typing.get_args(hint) else "[fd_digits]")
    else:
        shown = hint.__name__ if hint in (int, float, str, bool) else "settings of its own"
    raise UserError(f"{path} is {value!r}; expected {shown}")
