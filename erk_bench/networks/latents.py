"""From a sampler's final state to uint8 images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.digits import data as digits


def rgb_to_uint8(x: Tensor) -> Tensor:
    """Pixel models: clip(x * 127.5 + 128, 0, 255), truncated, as the published EDM2 programs do; NCHW."""
    return (x.float() * 127.5 + 128).clip(0, 255).to(torch.uint8)


class Decoder(NamedTuple):
    """A row of DECODERS: final state NCHW float -> images NCHW uint8, for states of `channels`."""

    decode: Callable[[Tensor], Tensor]
    channels: int


DECODERS: dict[str, Decoder] = {
    "rgb": Decoder(rgb_to_uint8, 3),
    "digits": Decoder(digits.decode, 1),
}
