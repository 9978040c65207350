"""Where a patch is: fixed position embeddings, and rotary ones (arXiv 2104.09864) in two axes."""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 10000.0


def grid_embedding(side: int, width: int) -> Tensor:
    """Sines and cosines of each patch's column and row, float32 [side * side, width], row after row.

    Four quarters of the width: sin and cos of the column, then of the row, at rates BASE^(-4 i / width).
    """
    frequencies = BASE ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    both = [axis[None].expand(side, -1, -1), axis[:, None].expand(-1, side, -1)]
    return torch.cat(both, dim=-1).reshape(side * side, width).float()


def rotary_tables(side: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each patch's angles, float32 [side * side, head_width] each.

    The first half of the channels turns by the row, the second by the column; neighbouring channels 2 j and
    2 j + 1 are a pair that turns by BASE^(-4 j / head_width) a patch.
    """
    half = head_width // 2
    frequencies = BASE ** (-torch.arange(0, half, 2, dtype=torch.float64) / half)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies.repeat_interleave(2)
    both = [angles[:, None].expand(-1, side, -1), angles[None].expand(side, -1, -1)]
    table = torch.cat(both, dim=-1).reshape(side * side, head_width)
    return table.cos().float(), table.sin().float()


def pairs_apart(width: int) -> Tensor:
    """The order of channels that puts the first of every pair into the first half, the others behind."""
    return torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)])


def rotated(x: Tensor, rotary: Tensor) -> Tensor:
    """x [..., tokens, width], its pairs turned by the angles whose cosines and sines [2, tokens, width] are.

    Channels are in the order of `pairs_apart`.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * rotary[0], torch.cat([-second, first], dim=-1), rotary[1])
