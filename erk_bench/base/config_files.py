"""Where the configuration files lie: the repository's configs/, or the copy inside an installed package."""

from __future__ import annotations

from pathlib import Path


def config_folder() -> Path:
    """The folder with model/, solver/, table/ and the other groups."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"
