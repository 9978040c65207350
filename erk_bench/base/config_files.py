"""Where the configuration files lie: the repository's configs/, or the copy inside an installed package."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path


def config_folder() -> Path:
    """The folder with model/, solver/, table/ and the other groups."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_files(group: str) -> Mapping[str, Path]:
    """The files of configs/GROUP by the name that chooses each, in the order of names."""
    return listing().get(group, {})


def listing() -> Mapping[str, Mapping[str, Path]]:
    """The files of every folder of configs/, which is looked at once a launch."""
    return _listing(config_folder())


@functools.cache
def _listing(folder: Path) -> Mapping[str, Mapping[str, Path]]:
    return {
        group.name: {file.stem: file for file in sorted(group.iterdir()) if file.suffix == ".yaml"}
        for group in sorted(folder.iterdir())
        if group.is_dir()
    }
