"""`erk-bench convert`: a published checkpoint as safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from erk_bench.base.errors import UserError
from erk_bench.commands.command import Command, NoOptions


def convert(options: NoOptions, words: list[str]) -> int:
    from erk_bench.networks import checkpoint

    source, target = map(Path, words)
    made = checkpoint.convert(source, target)
    count = sum(tensor.numel() for tensor in made.weights.values())
    print(f"{target}: {made.class_name}, {count:,} values, source sha256 {made.source_sha256}")
    decoder = "grey" if made.init.get("img_channels") == 1 else "rgb"
    print(f"use it: erk-bench generate model.name=mine model.weights.path={target} model.decoder={decoder}")
    return 0


def _check(words: Sequence[str]) -> None:
    if len(words) != 2:
        raise UserError(f"convert takes two paths, SOURCE and TARGET.safetensors; got {len(words)}")


COMMAND = Command(
    name="convert",
    summary="turn a published .pkl checkpoint into .safetensors",
    run=convert,
    options=NoOptions,
    words="SOURCE.pkl TARGET.safetensors",
    check=_check,
    examples="""\
  erk-bench convert edm2-img512-s-2147483-0.130.pkl edm2-s.safetensors""",
)
