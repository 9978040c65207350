"""Code of a user's own as the rows of our tables.

It is read without importing it, and imported when it is used. Its hash enters the identity of the run.
"""

from __future__ import annotations

from typing import Any, Protocol

from erk_bench.base.declared import declared
from erk_bench.base.errors import UserError
from erk_bench.base.own_code import check_signature, load, place_of
from erk_bench.runs.plugin_kinds import KINDS
from erk_bench.sampling.options import LEVELS


class FromOutside(Protocol):
    """A part of a run's settings that may name code of a user's own: its path, and the hash of its file."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str | None: ...

    @property
    def sha256(self) -> str: ...


def row_of(kind: str, address: str, sha256: str) -> Any:
    """The row of a table that a user's code is. Raises UserError where it does not look like one."""
    wanted = KINDS[kind]
    setting = f"{kind}.path"
    found = load(address, sha256, setting)
    if isinstance(found, wanted.row):
        return found
    if not callable(found):
        raise UserError(
            f"{setting} names '{address}', which is {type(found).__name__}; expected a function "
            f"({', '.join(wanted.arguments)}) or a {wanted.row.__name__} of erk_bench"
        )
    place = place_of(address, setting)
    check_signature(kind, found, place, wanted.arguments, (LEVELS,))
    return wanted.of(found, place)


def facts_of(kind: str, address: str) -> Any:
    """The same row as far as the text of the file tells; nothing is run, and its function does not work."""
    place = place_of(address, f"{kind}.path")
    found = declared(place.file, place.name, kind, KINDS[kind].arguments, (LEVELS,))
    return KINDS[kind].of(found, place)
