"""Which interpolations settings may have: other settings, and nothing of the machine they are read on."""

from __future__ import annotations

import re
from collections.abc import Mapping

from erk_bench.base.errors import UserError

# ${a.b} is the value of another setting. With a colon it is a call: ${oc.env:NAME}, ${oc.decode:...}.
OTHER_SETTING = re.compile(r"\$\{ *[\w.\[\]-]+ *\}")
SETTING_NAME = re.compile(r"[A-Za-z_][\w.]*")


def check_name(key: str, setting: str) -> None:
    """Refuse a key that is no plain name: Hydra would read packages (model@hydra=...) or groups from it."""
    if not SETTING_NAME.fullmatch(key):
        raise UserError(
            f"'{setting}' is no setting; '{key}' is no name: write KEY=VALUE with names and dots, for "
            "example schedule.num_steps=8"
        )


def check_value(value: object, setting: str) -> None:
    """Refuse interpolations that call anything, in texts at any depth.

    They would copy environment variables into names and files. Such settings come from tables and manifests
    of others too. Raises UserError, before anything is composed.
    """
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple)):
            waiting += item
        elif isinstance(item, str) and "${" in OTHER_SETTING.sub("", item):
            raise UserError(
                f"the setting {setting!r} has an interpolation that reads the environment or calls "
                "something; write the value itself, or another setting's as ${model.name}"
            )
