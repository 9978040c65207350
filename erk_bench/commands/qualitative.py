"""`erk-bench qualitative`: pictures of a diffusers pipeline with and without ERK-Guid, side by side."""

from __future__ import annotations

from dataclasses import dataclass

from erk_bench.commands.command import Command
from erk_bench.commands.options import DEVICE, FOLDER, Choice, Number, Text, Whole, Wholes, option

WHOLES = Wholes(0, "{name} has '{word}'; expected whole numbers with commas, such as {name}=0,1")


@dataclass(frozen=True, kw_only=True)
class QualitativeOptions:
    """Options of `erk-bench qualitative`."""

    model: str = option(
        Text("NAME|FOLDER", lambda: ("pixart_alpha", "dit_xl_2_512")),
        "the pipeline: pixart_alpha, dit_xl_2_512, or a folder with model_index.json",
        "pixart_alpha",
    )
    prompts: str | None = option(Text("TEXT|FILE.txt"), "a text to draw, or a file with one a line", None)
    classes: tuple[int, ...] | None = option(
        WHOLES, "numbers of ImageNet's classes, for a pipeline that draws classes", None
    )
    seeds: tuple[int, ...] = option(WHOLES, "each prompt or class is drawn with each of these", (0,))
    steps: int = option(Whole(), "network evaluations of a picture", 10)
    solver: str = option(Choice("dpm2", "heun"), "the scheduler: DPM-Solver-2 or Heun", "dpm2")
    w_stiff: float = option(Number("W"), "strength of ERK-Guid", 0.5)
    w_con: float = option(Number("W"), "ERK-Guid acts where the estimated stiffness is above this", 0.5)
    guidance: float | None = option(
        Number("W"), "weight of the text or class; that of diffusers' pipeline unless given", None
    )
    device: str = option(DEVICE, "where the networks run; auto is cuda if there is any", "auto")
    to: str = option(FOLDER, "where PNG and HTML are written", "results/figures")


def qualitative(options: QualitativeOptions, words: list[str]) -> int:
    from erk_bench.commands.actions import qualitative as action

    return action.qualitative(options)


COMMAND = Command(
    name="qualitative",
    summary="draw a diffusers pipeline with and without ERK-Guid side by side: PNG and HTML",
    run=qualitative,
    options=QualitativeOptions,
    examples="""\
  erk-bench qualitative prompts='an astronaut riding a horse' seeds=0,1     # PixArt-alpha, from the network
  erk-bench qualitative prompts=prompts.txt w_stiff=1 w_con=0.5             # a prompt a line
  erk-bench qualitative model=dit_xl_2_512 classes=207,360                  # ImageNet classes
  erk-bench qualitative model=my-pipeline classes=1 solver=heun             # a folder of a pipeline""",
)
