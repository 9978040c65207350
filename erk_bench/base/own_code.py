"""Code of a user's own: `FILE.py:NAME` or `package.module:NAME`, found, hashed, imported and called.

A file is hashed without running it; it is imported when what it names is used.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erk_bench.base.addresses import is_address
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.files import fresh_sha256


class CodePlace(NamedTuple):
    """Where a user's code stands."""

    name: str
    file: Path


# In FILE.py:NAME:option=value:option=value.
_OPTION = re.compile(r":(?=[A-Za-z_]\w*=)")


def split_options(text: str) -> tuple[str, dict[str, bool | int | float | str]]:
    """Address and options of FILE.py:NAME:option=value:option=value."""
    address, *given = _OPTION.split(text)
    return address, {key: _plain(value) for key, _, value in (item.partition("=") for item in given)}


def _plain(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def short_name(address: str) -> str:
    """What records and tables call it: file (or module) and name."""
    place, _, name = address.rpartition(":")
    return f"{Path(place).stem if place.endswith('.py') else place}.{name}"


def locate(address: str, setting: str) -> Path:
    """The file that an address names; nothing is imported. setting: what errors call it."""
    place, _, _ = address.rpartition(":")
    if not is_address(address):
        raise UserError(
            f"{setting} is '{address}'; expected FILE.py:NAME or package.module:NAME, for example "
            "my_solver.py:step"
        )
    if place.endswith(".py"):
        found = Path(place).expanduser()
        if not found.is_file():
            raise UserError(f"{setting} names '{found}', which does not exist (looked in '{Path.cwd()}')")
        return found
    path: Any = None
    origin = None
    parts = place.split(".")
    for depth in range(len(parts)):
        spec = PathFinder.find_spec(".".join(parts[: depth + 1]), path)
        if spec is None:
            raise UserError(
                f"{setting} names module '{place}', which is not installed; install its package, or give "
                "FILE.py:NAME"
            )
        path, origin = spec.submodule_search_locations, spec.origin
    if origin is None or not origin.endswith(".py"):
        raise UserError(f"{setting} names '{place}', which is no Python file; name a module with the code")
    return Path(origin)


def code_sha256(address: str, setting: str) -> str:
    """The hash of the file that an address names."""
    return fresh_sha256(locate(address, setting))


@functools.cache
def load(address: str, sha256: str, setting: str) -> Any:
    """What an address names, from a file that must still have that hash. Raises UserError."""
    file = locate(address, setting)
    place, _, name = address.rpartition(":")
    if fresh_sha256(file) != sha256:
        raise UserError(f"'{file}' has changed since this run was made; start a new run with {setting}")
    try:
        module = _import(file, sha256) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:  # whatever the user's file raises is a mistake in it
        raise UserError(f"'{file}' cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise unknown_name(f"name in '{file}'", name, known)
    return getattr(module, name)


def _import(file: Path, sha256: str) -> Any:
    place = hashlib.sha256(f"{file.resolve()} {sha256}".encode()).hexdigest()
    module_name = f"erk_bench_user_{place[:16]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look themselves up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def place_of(address: str, setting: str) -> CodePlace:
    """Where the code of an address stands."""
    return CodePlace(address.rpartition(":")[2], locate(address, setting))


def check_arguments(kind: str, name: str, file: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a function of these positional arguments where a kind of code takes others."""
    if len(found) != len(wanted):
        raise UserError(
            f"{name} in '{file}' takes ({', '.join(found)}); a {kind} takes ({', '.join(wanted)}), "
            "and its options as keyword-only arguments with defaults"
        )


def check_signature(
    kind: str,
    function: Callable[..., Any],
    place: CodePlace,
    arguments: Sequence[str],
    given: Collection[str] = (),
) -> None:
    """Refuse a function that does not take the arguments of its kind. given: options that we give it."""
    items = inspect.signature(function).parameters.values()
    if not any(item.kind is item.VAR_POSITIONAL for item in items):
        positional = [
            item.name for item in items if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)
        ]
        check_arguments(kind, place.name, place.file, positional, arguments)
    for item in items:
        if item.kind is item.KEYWORD_ONLY and item.default is item.empty and item.name not in given:
            raise UserError(
                f"option '{item.name}' of {place.name} in '{place.file}' has no default; give it one"
            )


def checked(
    function: Callable[..., Any],
    place: CodePlace,
    expected: str,
    problem: Callable[[Any, tuple[Any, ...]], str],
) -> Callable[..., Any]:
    """The function, whose result is looked at and whose errors are told where they arose.

    problem(result, arguments): what is wrong with a result, or "".
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            made = function(*arguments, **options)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever the user's code raises is a mistake in it
            raise UserError(_where(error, place)) from error
        found = problem(made, arguments)
        if found:
            raise UserError(f"{place.name} in '{place.file}' returned {found}; expected {expected}")
        return made

    return call


def _where(error: Exception, place: CodePlace) -> str:
    """One line: the error, and the last line of the user's own file that it went through."""
    here = place.file.resolve()
    frames = [
        each for each in traceback.extract_tb(error.__traceback__) if Path(each.filename).resolve() == here
    ]
    at = f" at line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
    text = " ".join(str(error).split())
    return f"{place.name} in '{place.file}' failed{at} ({type(error).__name__}: {text})"


def described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')} on {value.device}"
