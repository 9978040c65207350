"""`erk-bench train`: networks by a recipe, those of the embedded tracks or of a user's own pictures."""

from __future__ import annotations

from dataclasses import dataclass

from erk_bench.commands.command import Command
from erk_bench.commands.options import Choice, option
from erk_bench.commands.settings import TRAIN


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `erk-bench train`."""

    recipe: str = option(
        Choice("digits", "cifar16", "cifar32", "pictures"),
        "the recipe: a file of configs/train by NAME",
        "digits",
    )


def train(options: TrainOptions, settings: list[str]) -> int:
    from erk_bench.commands.actions import train as action
    from erk_bench.commands.compose import compose_config

    return action.train(compose_config(f"train/{options.recipe}", settings))


COMMAND = Command(
    name="train",
    summary="train the networks of an embedded track anew, or networks of your own pictures",
    run=train,
    options=TrainOptions,
    settings=TRAIN,
    examples="""\
  erk-bench train                                           # the digits networks: half an hour on 2 cores
  erk-bench train networks=[weaker] weaker.iterations=2000 out=my-weights
  erk-bench train recipe=cifar16 images=cifar10/train       # an hour or two; a folder for each class
  erk-bench train recipe=cifar32 images=cifar10/train       # minutes on a GPU
  erk-bench train recipe=pictures images=FOLDER resolution=32 denoiser.iterations=5000
  Stopped or killed, the same command goes on; on a CPU it gives the same bytes as if it had not been.""",
)
