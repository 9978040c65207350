"""Addresses of code of a user's own: `FILE.py:NAME` or `package.module:NAME`."""

from __future__ import annotations


def is_address(text: str) -> bool:
    """Whether a text names code of a user's own, FILE.py:NAME or package.module:NAME."""
    place, colon, name = text.rpartition(":")
    return bool(colon) and name.isidentifier() and (place.endswith(".py") or is_module(place))


def is_module(place: str) -> bool:
    """Whether a text is the name of a module."""
    return all(part.isidentifier() for part in place.split("."))
