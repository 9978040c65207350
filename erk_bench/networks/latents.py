"""From a sampler's final state to uint8 images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from erk_bench.digits import data as digits


def rgb_to_uint8(x: Tensor) -> Tensor:
    """Pixel models: clip(x * 127.5 + 128, 0, 255), truncated, as the published EDM2 programs do; NCHW."""
    return (x.float() * 127.5 + 128).clip(0, 255).to(torch.uint8)


# Decoders by name: final state NCHW float -> images NCHW uint8.
DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "rgb": rgb_to_uint8,
    "digits": digits.decode,
}
