"""Reads settings files of a user's own. A relative path in one is relative to the folder of that file."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from erk_bench.base.config_files import is_path
from erk_bench.base.errors import UserError
from erk_bench.base.interpolations import check_value
from erk_bench.base.sources import PACKAGE, SOURCES
from erk_bench.base.yaml_files import is_line, read_yaml

CODE = re.compile(r"(?:^|(?<=@))([^@:~][^@:]*\.py)(?=:[A-Za-z_])")  # of FILE.py:NAME and fd@FILE.py:NAME
NAMED_FILES = re.compile(r"\w+=[^,=]+(?:,\w+=[^,=]+)*")  # NAME=FILE, or several of them
MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # package.module:NAME


def read_own(file: Path) -> Mapping[str, Any]:
    """The content of a settings file of a user's own, its relative paths made absolute.

    Raises UserError, one line, for what is no mapping of names to plain values, for line breaks in texts,
    and for interpolations that read the environment or call something.
    """
    facts = file.stat() if file.is_file() else None
    return _read(file.absolute(), (facts.st_mtime_ns, facts.st_size, facts.st_ino) if facts else ())


@functools.lru_cache(maxsize=256)
def _read(file: Path, version: tuple[int, ...]) -> Mapping[str, Any]:
    content = read_yaml(file, "settings")
    if not isinstance(content, dict):
        raise UserError(f"the settings '{file}' are no mapping of names to values; write NAME: VALUE lines")
    _check(file, content)
    return {key: _absolute(file.parent, key, value) for key, value in content.items()}


def _check(file: Path, value: object) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(f"the settings '{file}' have the name {key!r}, which is no text; rename it")
            _check(file, key)
            _check(file, item)
    elif isinstance(value, list):
        for item in value:
            _check(file, item)
    elif isinstance(value, str):
        if not is_line(value):
            raise UserError(
                f"the settings '{file}' have the text {value[:80]!r} with a line break or control character; "
                "leave it out"
            )
        try:
            check_value(value, value)
        except UserError as error:
            raise UserError(f"in the settings '{file}': {error}") from error
    elif not (value is None or isinstance(value, (bool, int, float))):
        raise UserError(
            f"the settings '{file}' have the value {value}, a {type(value).__name__}; put quotes around it "
            "if it is a text"
        )


def _absolute(folder: Path, key: str, value: Any) -> Any:
    """A value, every relative path in it below `folder`: code, settings, `path`, and files that are there."""
    if isinstance(value, Mapping):
        return {name: _absolute(folder, name, item) for name, item in value.items()}
    if isinstance(value, list):
        return [_absolute(folder, key, item) for item in value]
    if not isinstance(value, str) or value.startswith("~") or "${" in value:
        return value
    if NAMED_FILES.fullmatch(value):
        return each_file(value, lambda file: str(_absolute(folder, key, file)))
    if CODE.search(value):
        return CODE.sub(lambda match: str(folder / match[1]), value)
    if not _is_local(value):
        return value
    named = (key == "path" and not MODULE.fullmatch(value)) or is_path(value)
    return str(folder / value) if named or (Path(value).suffix and (folder / value).is_file()) else value


def each_file(value: str, change: Callable[[str], str]) -> str:
    """A value changed, or each file of NAME=FILE,NAME=FILE."""
    if not NAMED_FILES.fullmatch(value):
        return change(value)
    named = (part.split("=") for part in value.split(","))
    return ",".join(f"{name}={change(file)}" for name, file in named)


def _is_local(address: str) -> bool:
    source, colon, _ = address.partition(":")
    return "://" not in address and not (colon and (f"{source}:" == PACKAGE or source in SOURCES))
