"""`erk-bench doctor`: what is installed, found and free on this machine."""

from __future__ import annotations

from erk_bench.commands.command import Command, NoOptions


def doctor(options: NoOptions, words: list[str]) -> int:
    from erk_bench.commands.actions import doctor as action

    return action.doctor()


COMMAND = Command(
    name="doctor",
    summary="what is installed, found and free on this machine",
    run=doctor,
    options=NoOptions,
    examples="""\
  erk-bench doctor""",
)
