"""From a sampler's final state to uint8 images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.footprint import Sketch
from erk_bench.base.weight_files import read_state_dicts
from erk_bench.digits import data as digits
from erk_bench.networks.vae import load_vae, sketch_vae

# Final states NCHW float -> images NCHW uint8, on the same device.
Decode = Callable[[Tensor], Tensor]


def rgb_to_uint8(x: Tensor) -> Tensor:
    """Pixel models, colour or grey: clip(x * 127.5 + 128, 0, 255), truncated, as EDM2's programs do; NCHW."""
    return (x.float() * 127.5 + 128).clip(0, 255).to(torch.uint8)


def rgb_truncated(x: Tensor) -> Tensor:
    """clip(255 (x + 1) / 2, 0, 255), truncated, as REPA's program does; NCHW. Half are 1 lower."""
    return (255 * (x.float() + 1) / 2).clip(0, 255).to(torch.uint8)


def rgb_rounded(x: Tensor) -> Tensor:
    """clip(255 (x + 1) / 2, 0, 255), rounded half to even, as JiT's program does; NCHW."""
    return (255 * (x.float() + 1) / 2).clip(0, 255).round().to(torch.uint8)


def rgb_saved(x: Tensor) -> Tensor:
    """As torchvision saves pictures of x in [-1, 1]: truncate(clip(255 u + 0.5)), u = (x + 1) / 2; NCHW."""
    return ((x.float().clip(-1, 1) + 1) / 2 * 255 + 0.5).clip(0, 255).to(torch.uint8)


def scaled(decode: Decode, mean: tuple[float, ...], std: tuple[float, ...]) -> Decode:
    """A decoder of states x * std + mean, one number for each channel or one for all; () is 0 or 1."""

    def unscaled(x: Tensor) -> Tensor:
        factor, shift = (
            torch.tensor(values or (default,), dtype=torch.float32).to(x.device)[:, None, None]
            for values, default in ((std, 1.0), (mean, 0.0))
        )
        return decode(x.float() * factor + shift)

    return unscaled


def latent_statistics(path: Path, multiplier: float = 1.0) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """mean and std / multiplier of each channel, for `scaled`, from LightningDiT's latents_stats.pt.

    Raises UserError for another file.
    """
    found = read_state_dicts(path).get("", {})
    if set(found) != {"mean", "std"}:
        raise UserError(f"'{path}' holds {', '.join(found) or 'nothing'}; expected the tensors mean and std")
    mean, std = (tuple(found[name].double().flatten().tolist()) for name in ("mean", "std"))
    return mean, tuple(value / multiplier for value in std)


def _load_sd_vae(weights: Path, config: Path, device: torch.device, dtype: torch.dtype, batch: int) -> Decode:
    return load_vae(config, weights, device, dtype, batch)


def _load_plain_vae(to_uint8: Decode) -> Callable[[Path, Path, torch.device, torch.dtype, int], Decode]:
    """A loader for latents that are the autoencoder's own, whose output is in [-1, 1]."""

    def load(weights: Path, config: Path, device: torch.device, dtype: torch.dtype, batch: int) -> Decode:
        return load_vae(config, weights, device, dtype, batch, to_uint8=to_uint8)

    return load


class Decoder(NamedTuple):
    """A row of DECODERS. channels: of the state. factor: image pixels a side for one of the state.

    image_channels: of the image. decode: where no weights are needed; load: where they are, from
    (weights, config.json, device, dtype, images at once). sketch: the network without numbers and what is
    called for a batch of states, of (config.json, dtype), to count what it takes; None is the published file.
    missing: why it cannot be had, and what to do; "" where it can. package: of EXTRAS, which the network is
    built with.
    """

    channels: int
    factor: int
    image_channels: int
    decode: Decode | None = None
    load: Callable[[Path, Path, torch.device, torch.dtype, int], Decode] | None = None
    sketch: Callable[[Path | None, torch.dtype], Sketch] | None = None
    missing: str = ""
    package: str | None = None


BY_CHANNELS = "by_channels"  # grey for states of one channel, rgb for three

DECODERS: dict[str, Decoder] = {
    "rgb": Decoder(3, 1, 3, decode=rgb_to_uint8),
    "grey": Decoder(1, 1, 1, decode=rgb_to_uint8),
    "digits": Decoder(1, 1, 1, decode=digits.decode),
    "sd_vae": Decoder(4, 8, 3, None, _load_sd_vae, sketch_vae, package="diffusers"),
    # Pixels and bytes as other programs make them; scaling of latents is the model's (latent_std).
    "rgb_rounded": Decoder(3, 1, 3, decode=rgb_rounded),
    "sd_vae_dit": Decoder(4, 8, 3, None, _load_plain_vae(rgb_to_uint8), sketch_vae, package="diffusers"),
    "sd_vae_repa": Decoder(4, 8, 3, None, _load_plain_vae(rgb_truncated), sketch_vae, package="diffusers"),
    "va_vae": Decoder(
        32, 16, 3,
        missing="the network of VA-VAE (LightningDiT's f16d32) is in no library here; give a decoder of "
        "your own, model.decoder=FILE.py:NAME, of states [B, 32, h, w] (docs/plugins.md)",
    ),
}  # fmt: skip


def by_channels(channels: int) -> Decoder:
    """The decoder of a pixel model of so many channels. Raises UserError where there is none."""
    for name in ("grey", "rgb"):
        if DECODERS[name].channels == channels:
            return DECODERS[name]
    raise UserError(
        f"the model's states have {channels} channels, which are no pixels; set model.decoder to one of: "
        f"{', '.join(DECODERS)}, FILE.py:NAME"
    )
