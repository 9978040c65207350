"""From a sampler's final state to uint8 images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.footprint import Sketch
from erk_bench.digits import data as digits
from erk_bench.networks.vae import load_vae, sketch_vae

# Final states NCHW float -> images NCHW uint8, on the same device.
Decode = Callable[[Tensor], Tensor]


def rgb_to_uint8(x: Tensor) -> Tensor:
    """Pixel models, colour or grey: clip(x * 127.5 + 128, 0, 255), truncated, as EDM2's programs do; NCHW."""
    return (x.float() * 127.5 + 128).clip(0, 255).to(torch.uint8)


def _load_sd_vae(weights: Path, config: Path, device: torch.device, dtype: torch.dtype, batch: int) -> Decode:
    return load_vae(config, weights, device, dtype, batch)


class Decoder(NamedTuple):
    """A row of DECODERS. channels: of the state. factor: image pixels a side for one of the state.

    image_channels: of the image. decode: where no weights are needed; load: where they are, from
    (weights, config.json, device, dtype, images at once). sketch: the network without numbers and what is
    called for a batch of states, of (config.json, dtype), to count what it takes; None is the published file.
    """

    channels: int
    factor: int
    image_channels: int
    decode: Decode | None = None
    load: Callable[[Path, Path, torch.device, torch.dtype, int], Decode] | None = None
    sketch: Callable[[Path | None, torch.dtype], Sketch] | None = None


BY_CHANNELS = "by_channels"  # grey for states of one channel, rgb for three

DECODERS: dict[str, Decoder] = {
    "rgb": Decoder(3, 1, 3, decode=rgb_to_uint8),
    "grey": Decoder(1, 1, 1, decode=rgb_to_uint8),
    "digits": Decoder(1, 1, 1, decode=digits.decode),
    "sd_vae": Decoder(4, 8, 3, load=_load_sd_vae, sketch=sketch_vae),
}


def by_channels(channels: int) -> Decoder:
    """The decoder of a pixel model of so many channels. Raises UserError where there is none."""
    for name in ("grey", "rgb"):
        if DECODERS[name].channels == channels:
            return DECODERS[name]
    raise UserError(
        f"the model's states have {channels} channels, which are no pixels; set model.decoder to one of: "
        f"{', '.join(DECODERS)}, FILE.py:NAME"
    )
