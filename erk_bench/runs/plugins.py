"""Code of a user's own: `FILE.py:NAME` or `package.module:NAME`, for every table of the package.

A file is hashed without running it; it is imported when what it names is used. Its hash enters the identity
of the run.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Protocol

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.files import fresh_sha256
from erk_bench.runs.declared import check_arguments, declared
from erk_bench.runs.plugin_kinds import KINDS, Place
from erk_bench.sampling.options import LEVELS


class FromOutside(Protocol):
    """A part of a run's settings that may name code of a user's own: its path, and the hash of its file."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str | None: ...

    @property
    def sha256(self) -> str: ...


def is_address(text: str) -> bool:
    """Whether a text names code of a user's own, FILE.py:NAME or package.module:NAME."""
    place, colon, name = text.rpartition(":")
    return bool(colon) and name.isidentifier() and (place.endswith(".py") or _is_module(place))


def _is_module(place: str) -> bool:
    return all(part.isidentifier() for part in place.split("."))


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


def row_of(kind: str, address: str, sha256: str) -> Any:
    """The row of a table that a user's code is. Raises UserError where it does not look like one."""
    wanted = KINDS[kind]
    setting = f"{kind}.path"
    found = load(address, sha256, setting)
    if isinstance(found, wanted.row):
        return found
    if not callable(found):
        raise UserError(
            f"{setting} names '{address}', which is {type(found).__name__}; expected a function "
            f"({', '.join(wanted.arguments)}) or a {wanted.row.__name__} of erk_bench"
        )
    file, name = locate(address, setting), address.rpartition(":")[2]
    items = inspect.signature(found).parameters.values()
    if not any(item.kind is item.VAR_POSITIONAL for item in items):
        positional = [
            item.name for item in items if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)
        ]
        check_arguments(kind, name, file, positional, wanted.arguments)
    for item in items:
        if item.kind is item.KEYWORD_ONLY and item.default is item.empty and item.name != LEVELS:
            raise UserError(f"option '{item.name}' of {name} in '{file}' has no default; give it one")
    return wanted.of(found, Place(name, file))


def facts_of(kind: str, address: str) -> Any:
    """The same row as far as the text of the file tells; nothing is run, and its function does not work."""
    file, name = locate(address, f"{kind}.path"), address.rpartition(":")[2]
    return KINDS[kind].of(declared(file, name, kind, KINDS[kind].arguments), Place(name, file))
