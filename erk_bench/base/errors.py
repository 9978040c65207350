"""Errors that a user can cause; the command line prints them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from erk_bench.base.untrusted import visible


class UserError(ValueError):
    """Something the user can put right; the message names the value, the valid ones, the next step.

    One line: a message may quote names of foreign files, so whatever is not printable becomes an escape.
    status: the exit status of a command that ends with it.
    """

    status = 2

    def __init__(self, message: object = "") -> None:
        super().__init__(visible(str(message)))


class WorkerLostError(UserError):
    """A worker was killed or never came; the same command again goes on, and a scheduler may requeue it."""

    status = 70  # EX_SOFTWARE


class DamagedError(UserError):
    """Files of a run were damaged and have been set aside; the same command again computes them anew."""

    @classmethod
    def of(cls, errors: Sequence[DamagedError]) -> DamagedError:
        """One error for several."""
        return (
            errors[0] if len(errors) == 1 else cls(f"{len(errors)} files are damaged; the first: {errors[0]}")
        )


class BusyError(UserError):
    """Another process does this work already; once it has ended, the same command goes on."""

    status = 75  # EX_TEMPFAIL


class UnknownNameError(UserError, TypeError):
    """A name that is not in its table (also raised for an unknown keyword argument)."""


def unknown_name(kind: str, name: str, known: Iterable[str], told: str = "") -> UnknownNameError:
    """The error for `name`, which is not one of `known`, suggesting the nearest. told: how to list them."""
    names = list(known)
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean '{nearest[0]}'?" if nearest else "."
    shown = name if str(name).isprintable() else repr(name)[1:-1]  # one line, whatever was given
    return UnknownNameError(f"unknown {kind} '{shown}'{hint} Known: {told or ', '.join(names)}")
