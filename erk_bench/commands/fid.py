"""`erk-bench fid`: the FID of two sets of images, in one line."""

from __future__ import annotations

import dataclasses

from erk_bench.commands.command import Command
from erk_bench.commands.score import ScoreOptions, check, score


def fid(options: ScoreOptions, words: list[str]) -> int:
    return score(dataclasses.replace(options, metrics=options.metrics or ("fid",)), words)


COMMAND = Command(
    name="fid",
    summary="the FID of two folders of images: fid A B",
    run=fid,
    options=ScoreOptions,
    words="[SET REFERENCE]",
    check=check,
    examples="""\
  erk-bench fid my_images/ real_images/
  erk-bench fid samples.npz VIRTUAL_imagenet256_labeled.npz
  It is 'erk-bench score' with metrics=fid, with the same options.""",
)
