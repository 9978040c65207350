"""Packages that only some uses need: an extra of erk-bench brings them, and an error says which."""

from __future__ import annotations

import importlib

from erk_bench.base.errors import UserError

# package -> the extra that brings it (pyproject.toml)
EXTRAS = {
    "diffusers": "diffusers",
    "jinja2": "report",
    "optuna": "search",
    "pandas": "frames",
    "plotly": "report",
    "pyarrow": "frames",
    "tensorboard": "tensorboard",
    "timm": "timm",
    "wandb": "wandb",
}


def need(package: str, user: str) -> None:
    """Import a package of EXTRAS for `user`, such as "tracker 'wandb'".

    Raises UserError with the command that installs it where it is missing.
    """
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # it is there, and broken
        raise UserError(
            f"{user} needs {package}, which is not installed; run: pip install 'erk-bench[{EXTRAS[package]}]'"
        ) from error
