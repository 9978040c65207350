"""From a run back to the words that compose to it."""

from __future__ import annotations

import functools
import json
from typing import Any

from erk_bench.base.config_files import config_files
from erk_bench.base.fields import to_dict
from erk_bench.commands.compose import run_spec
from erk_bench.spec import RunSpec

GROUPS = ("model", "solver", "schedule", "guidance", "correction")
# Where and how it ran, and hashes, which follow from their files.
NOT_SAID = ("out", "device", "workers", "offline", "samples", "sha256")


def words_of(spec: RunSpec) -> list[str]:
    """Settings of `erk-bench run` that give the same run, those at their defaults left out.

    They give another run where a file or preset has changed since. Raises UserError where the presets that
    the run names are not here.
    """
    picks: list[str] = []
    for group in GROUPS:
        wanted = getattr(spec, group).name
        if wanted in config_files(group) and getattr(_composed(tuple(picks)), group).name != wanted:
            picks.append(f"{group}={wanted}")
    there = _flat(to_dict(_composed(tuple(picks))))
    words = [
        f"{key}={_text(value)}"
        for key, value in _flat(to_dict(spec)).items()
        if key.rpartition(".")[2] not in NOT_SAID and there.get(key) != value
    ]
    return [*picks, *words]


@functools.lru_cache(maxsize=256)
def _composed(picks: tuple[str, ...]) -> RunSpec:
    return run_spec(picks, fetch=False)


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names; options of a part's own as settings of it."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        elif key == "options":
            found |= {f"{prefix}{name}": option for name, option in value}
        else:
            found[f"{prefix}{key}"] = value
    return found


def _text(value: Any) -> str:
    """A value as a setting: null, true, lists in brackets, texts with other signs between quotes."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    simple = value and all(sign.isalnum() or sign in "_-./:@+" for sign in value)
    return value if simple else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
