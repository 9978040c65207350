"""Values of a command's own settings from their text."""

from __future__ import annotations

import math

from erk_bench.errors import UserError


def whole_number(name: str, text: str) -> int:
    """A setting that counts something."""
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{name} is '{text}'; expected a whole number from 1 on")
    return int(text)


def flag(name: str, text: str) -> bool:
    """A setting that is true or false."""
    if text.lower() not in ("true", "false"):
        raise UserError(f"{name} is '{text}'; expected true or false")
    return text.lower() == "true"


def number(name: str, text: str) -> float:
    """A setting that is a finite number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{name} is '{text}'; expected a number, 0 or more")
    return value
