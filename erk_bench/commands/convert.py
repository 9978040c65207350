"""`erk-bench convert`: a published checkpoint as safetensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from erk_bench.base.errors import UserError
from erk_bench.commands.command import Command
from erk_bench.commands.options import Choice, Flag, Number, Text, Whole, option
from erk_bench.networks.flow_facts import FAMILY_NAMES


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Options of `erk-bench convert`: what load_denoiser is given for a file of a family."""

    family: str | None = option(
        Choice(*FAMILY_NAMES), "whose weights they are; EDM's pickles need none", None
    )
    key: str | None = option(Text("NAME"), "which weights of a training state, an average unless given", None)
    num_heads: int | None = option(Whole(), "heads of its attention, where the file does not tell", None)
    img_resolution: int | None = option(Whole(), "side of its states, where the file does not tell", None)
    num_classes: int | None = option(
        Whole(), "how many classes it knows, where one is not the null class", None
    )
    in_context_start: int | None = option(Whole(0), "block that class tokens join at, of JiT", None)
    noise_scale: float | None = option(
        Number("X", positive=True, expected="a number above 0"), "standard deviation of JiT's noise", None
    )
    rope: bool | None = option(Flag(), "whether LightningDiT turns, where its file has no tables", None)


def convert(options: ConvertOptions, words: list[str]) -> int:
    from erk_bench.networks import checkpoint

    source, target = map(Path, words)
    facts = {name: value for name, value in dataclasses.asdict(options).items() if value is not None}
    family, key = facts.pop("family", ""), facts.pop("key", None)
    made = checkpoint.convert(source, target, family, facts, key)
    count = sum(tensor.numel() for tensor in made.weights.values())
    print(f"{target}: {made.class_name}, {count:,} values, source sha256 {made.source_sha256}")
    pixels = {1: "grey", 3: "rgb_rounded" if family == "jit" else "rgb"}
    decoder = pixels.get(int(made.init.get("img_channels", 3)))
    how = f"model.name=mine model.weights.path={target} model.decoder={decoder}"
    latents = f"model=PRESET model.weights.path={target}, with a preset of its latents"
    print(f"use it: erk-bench generate {how if decoder else latents}")
    return 0


def _check(words: Sequence[str]) -> None:
    if len(words) != 2:
        raise UserError(f"convert takes two paths, SOURCE and TARGET.safetensors; got {len(words)}")
    if Path(words[1]).suffix != ".safetensors":
        raise UserError(f"'{words[1]}' must end in .safetensors, the format that convert writes")


COMMAND = Command(
    name="convert",
    summary="turn a published checkpoint into .safetensors that need no options",
    run=convert,
    options=ConvertOptions,
    words="SOURCE TARGET.safetensors",
    check=_check,
    examples="""\
  erk-bench convert edm2-img512-s-2147483-0.130.pkl edm2-s.safetensors
  erk-bench convert SiT-XL-2-256x256.pt sit.safetensors family=sit      # also dit, repa, lightningdit, jit
  erk-bench convert tiny.pt tiny.safetensors family=sit num_heads=2 key=model""",
)
