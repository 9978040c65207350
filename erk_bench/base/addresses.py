"""Addresses of code of a user's own, `FILE.py:NAME` or `package.module:NAME`, and of models of diffusers."""

from __future__ import annotations

DIFFUSERS = "diffusers:"  # diffusers:FOLDER, or diffusers:OWNER/NAME of the hub


def is_address(text: str) -> bool:
    """Whether a text names code of a user's own, FILE.py:NAME or package.module:NAME."""
    place, colon, name = text.rpartition(":")
    return (
        bool(colon)
        and not is_diffusers(text)
        and name.isidentifier()
        and (place.endswith(".py") or is_module(place))
    )


def is_module(place: str) -> bool:
    """Whether a text is the name of a module."""
    return all(part.isidentifier() for part in place.split("."))


def is_diffusers(text: str) -> bool:
    """Whether a text names a folder of a model that diffusers wrote."""
    return text.startswith(DIFFUSERS)


def is_network(text: str) -> bool:
    """Whether a text names a network with settings of its own: code of a user's own, or one of diffusers."""
    return is_address(text) or is_diffusers(text)
