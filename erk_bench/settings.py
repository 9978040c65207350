"""Values of a command's own settings from their text."""

from __future__ import annotations

import math
import re

from erk_bench.base.errors import UserError


def whole_number(name: str, text: str) -> int:
    """A setting that counts something."""
    if not is_whole(text) or int(text) < 1:
        raise UserError(f"{name} is '{text[:80]}'; expected a whole number from 1 on, at most 18 digits")
    return int(text)


def is_whole(text: str) -> bool:
    """Whether a text is a whole number of at most 18 of the digits 0 to 9."""
    return re.fullmatch("[0-9]{1,18}", text) is not None


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
