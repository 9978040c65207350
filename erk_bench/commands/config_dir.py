"""`--config-dir FOLDER`, which every command takes: a folder of settings of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from erk_bench.base.config_files import config_file, is_path, listing, own_folders
from erk_bench.base.errors import UserError
from erk_bench.base.files import check_path

OPTION = "--config-dir"
SPELLINGS = (OPTION, "--config_dir", "config_dir")
ABOUT = (
    "a folder of your own settings, laid out like configs/ (model/mine.yaml gives model=mine); may be given "
    "several times, and ERK_BENCH_CONFIGS names such folders, too"
)


class Parted(NamedTuple):
    """The folders that words name, and the other words."""

    folders: list[Path]
    words: list[str]


def parted(words: Sequence[str]) -> Parted:
    """Take `--config-dir FOLDER`, `--config-dir=FOLDER` and `config_dir=FOLDER` out of the words."""
    found = Parted([], [])
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if name not in SPELLINGS or not (equals or name.startswith("--")):
            found.words.append(word)
            continue
        if not equals and left:
            value = left.pop(0)
        if not value:
            raise UserError(f"{OPTION} needs a folder: {OPTION} FOLDER")
        check_path(OPTION, Path(value))
        found.folders.append(Path(value))
    return found


def anywhere(words: Sequence[str]) -> list[str]:
    """The words of a command so that they mean the same in another folder and without ERK_BENCH_CONFIGS.

    Files of settings get absolute paths; the folders searched come after the command's name.
    """
    name, *rest = words
    return [name, *(f"{OPTION}={folder}" for folder in own_folders()), *map(_absolute, rest)]


def _absolute(word: str) -> str:
    group, equals, value = word.partition("=")
    if not equals or group not in listing() or not is_path(value):
        return word
    paths = value.split(",") if not Path(value).expanduser().is_file() else [value]
    absolute = (str(config_file(group, path).absolute()) if is_path(path) else path for path in paths)
    return f"{group}={','.join(absolute)}"
