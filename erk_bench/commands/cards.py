"""GPUs by the names that people use, and the memory that their makers name."""

from __future__ import annotations

import math
from collections.abc import Collection

from erk_bench.base.errors import unknown_name
from erk_bench.commands.options import OptionType

# In GB.
CARDS = {
    "t4": 16, "v100": 32, "l4": 24, "a10": 24, "rtx3090": 24, "rtx4090": 24, "rtx5090": 32, "a6000": 48,
    "l40s": 48, "a100": 80, "h100": 80, "h200": 141, "b200": 180, "mi250": 64, "mi300x": 192,
}  # fmt: skip


class CardMemory(OptionType[float]):
    """Memory of a GPU in GB, as a number or as the name of a card."""

    name = "memory"
    expected = "GB of one GPU above 0, for example {name}=80, or a card such as {name}=h100"
    metavar = "GB|GPU"

    def parse(self, name: str, text: str) -> float:
        if text.lower() in CARDS:
            return CARDS[text.lower()]
        try:
            value = float(text)
        except ValueError as error:
            raise unknown_name("GPU", text, [*CARDS, "a number of GB"]) from error
        if not (math.isfinite(value) and value > 0):
            raise ValueError
        return value

    def show(self, value: float | None) -> str:
        return "" if value is None else f"{value:g}"

    def choices(self) -> Collection[str]:
        return tuple(CARDS)
