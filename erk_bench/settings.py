"""Values of a command's own settings from their text."""

from __future__ import annotations

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
