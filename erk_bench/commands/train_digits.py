"""`erk-bench train-digits`: the networks of the digits track, trained anew."""

from __future__ import annotations

from erk_bench.commands.command import Command, NoOptions
from erk_bench.commands.settings import TRAIN_DIGITS


def train_digits(options: NoOptions, settings: list[str]) -> int:
    from erk_bench.commands.actions import train_digits as action
    from erk_bench.commands.compose import compose_config

    return action.train_digits(compose_config("train_digits", settings))


COMMAND = Command(
    name="train-digits",
    summary="train the networks of the digits track anew",
    run=train_digits,
    options=NoOptions,
    settings=TRAIN_DIGITS,
    examples="""\
  erk-bench train-digits                                    # about half an hour on 2 cores
  erk-bench train-digits networks=[weaker] weaker.iterations=2000 out=my-weights""",
)
