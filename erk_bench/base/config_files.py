"""Where configuration files lie: the shipped configs/, and folders of a user's own laid out like it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from erk_bench.base.errors import UserError, unknown_name

VARIABLE = "ERK_BENCH_CONFIGS"
SUFFIXES = (".yaml", ".yml")

_added: ContextVar[tuple[Path, ...]] = ContextVar("_added", default=())


def config_folder() -> Path:
    """The shipped folder with model/, solver/, table/ and the other groups, here or in a package."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def own_folders() -> tuple[Path, ...]:
    """The user's own folders: those of ERK_BENCH_CONFIGS, then those of `searching`, as absolute paths."""
    named = [Path(text).expanduser() for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    return tuple(dict.fromkeys(folder.resolve() for folder in (*named, *_added.get())))


@contextmanager
def searching(folders: Sequence[Path]) -> Iterator[None]:
    """Adds folders of the user's own until the end of the block. Raises UserError for what is none."""
    before = _added.set((*_added.get(), *(folder.expanduser().resolve() for folder in folders)))
    try:
        listing()
        yield
    finally:
        _added.reset(before)


def config_files(group: str) -> Mapping[str, Path]:
    """The files of a group by the name that chooses each: the shipped ones in order, then the user's own."""
    return listing().get(group, {})


def config_file(group: str, choice: str) -> Path:
    """The file that GROUP=CHOICE means: one of `config_files`, or the user's own by a path ending in .yaml.

    Raises UserError naming the known choices, or where the file was looked for.
    """
    if is_path(choice):
        file = Path(choice).expanduser()
        if not file.is_file():
            place = "" if file.is_absolute() else f" (looked in '{Path.cwd()}')"
            what = "a folder" if file.is_dir() else f"no file{place}"
            raise UserError(f"{group} is '{choice}', which is {what}; check the path, or give a name")
        return file
    files = config_files(group)
    if choice not in files:
        raise unknown_name(group, choice, [*files, "FILE.yaml"])
    return files[choice]


def is_path(choice: str) -> bool:
    """Whether a choice is a file by its path, not a name."""
    return choice.endswith(SUFFIXES)


def is_own(file: Path) -> bool:
    """Whether a configuration file is the user's own, not a shipped one."""
    return config_folder() not in file.parents


def listing() -> Mapping[str, Mapping[str, Path]]:
    """The files of every group; each folder is looked at once a launch."""
    return _listing(config_folder(), own_folders())


@functools.cache
def _listing(shipped: Path, own: tuple[Path, ...]) -> Mapping[str, Mapping[str, Path]]:
    found = _groups(shipped)
    for folder in own:
        for group, files in _own_groups(folder, list(found)).items():
            for name, file in files.items():
                if name in found[group]:
                    raise UserError(
                        f"'{file}' has the name of '{found[group][name]}', and {group}={name} can mean only "
                        "one of them; rename yours"
                    )
                found[group][name] = file
    return found


def _groups(folder: Path) -> dict[str, dict[str, Path]]:
    return {
        group.name: {file.stem: file for file in sorted(group.iterdir()) if file.suffix in SUFFIXES}
        for group in sorted(folder.iterdir())
        if group.is_dir() and not group.name.startswith(".")
    }


def _own_groups(folder: Path, known: Sequence[str]) -> Mapping[str, Mapping[str, Path]]:
    """The groups of a user's folder. Raises UserError where it is not laid out like configs/."""
    try:
        found = _groups(folder)
    except OSError as error:
        raise UserError(
            f"no folder of settings '{folder}' ({error.strerror}); check --config-dir and {VARIABLE}"
        ) from error
    for group, files in found.items():
        if files and group not in known:
            raise unknown_name(f"group in the folder of settings '{folder}':", group, known)
    if not any(group in known for group in found):
        raise UserError(
            f"the folder of settings '{folder}' has none of the folders {', '.join(known)}; put your files "
            "in one, for example model/mine.yaml"
        )
    return {group: files for group, files in found.items() if group in known}
