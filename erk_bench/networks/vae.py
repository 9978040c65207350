"""Sampler latents to images through the Stable-Diffusion autoencoder, as EDM2 (arXiv 2312.02696) uses it, or
as DiT and its kin do.

EDM2 hands images of range [0, 1] to the autoencoder, where Stable Diffusion has [-1, 1]; so the decoder's
output is clipped to [0, 1] as it is. EDM2 decodes in float32, in batches of 8.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erk_bench.base.errors import UserError
from erk_bench.base.extras import need
from erk_bench.base.footprint import Sketch
from erk_bench.base.state_dicts import NEXT_STEP, fitting_tensors, read_state_dict
from erk_bench.base.untrusted import parse_json

# Sampler latents [B, 4, h, w], float -> uint8 images [B, 3, 8h, 8w] on the decoder's device.
Decode = Callable[[Tensor], Tensor]

CLASS_NAME = "AutoencoderKL"
CHANNELS = 4
# EDM2 samples latent = (vae_latent - mean) * 0.5 / std.
LATENT_MEAN = (5.81, 3.25, 0.12, -2.15)
LATENT_STD = (4.17, 4.62, 3.71, 3.28)
SIGMA_DATA = 0.5

# What counts of the published config.json of sd-vae-ft-mse.
PUBLISHED_CONFIG = {
    "_class_name": CLASS_NAME, "in_channels": 3, "out_channels": 3, "latent_channels": CHANNELS,
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "act_fn": "silu", "sample_size": 256,
}  # fmt: skip

# Names of attention layers in the published sd-vae-ft-mse file, and what diffusers calls them since 0.18.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class LatentScaling:
    """Sampler latents [B, 4, h, w] -> the autoencoder's latents, float32 (inverse of EDM2's scaling)."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        mean, std = (torch.tensor(values)[:, None, None] for values in (LATENT_MEAN, LATENT_STD))
        # The inverse of x * scale + bias, written so: x * std / 0.5 + mean rounds differently.
        self._scale = (SIGMA_DATA / std).to(device)
        self._bias = (-mean * (SIGMA_DATA / std)).to(device)

    def __call__(self, x: Tensor) -> Tensor:
        return (x.float() - self._bias) / self._scale


def vae_to_uint8(y: Tensor) -> Tensor:
    """The decoder's output, float NCHW -> uint8: 255 * clip(y, 0, 1), truncated."""
    return (y.float().clamp(0, 1) * 255).to(torch.uint8)


def load_vae(
    config: Path,
    weights: Path,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    batch: int = 8,
    *,
    to_uint8: Callable[[Tensor], Tensor] | None = None,
) -> Decode:
    """Decoder of latents [B, 4, h, w] to uint8 images [B, 3, 8h, 8w]; 8 is the published factor.

    config, weights: `config.json` and `diffusion_pytorch_model.safetensors` of stabilityai/sd-vae-ft-mse,
    with old or new names of attention layers. dtype: of weights and arithmetic; EDM2 uses float32. batch:
    decode at most so many images at once. to_uint8: makes bytes of the decoder's output; the latents are then
    the autoencoder's own, and None is EDM2's way with both. Raises UserError for other files; decode raises
    it for other latents and for outputs that are not finite.
    """
    if batch < 1 or not dtype.is_floating_point:
        raise UserError(f"cannot decode in batches of {batch} in {dtype}; give batch >= 1 and a float dtype")
    network = _build(config, weights, dtype).to(device)
    to_vae_latents = LatentScaling(device) if to_uint8 is None else Tensor.float
    to_bytes = to_uint8 or vae_to_uint8

    @torch.inference_mode()
    def decode(latents: Tensor) -> Tensor:
        if not latents.is_floating_point() or latents.ndim != 4 or latents.shape[1] != CHANNELS:
            raise UserError(
                f"the VAE decodes floating-point latents [B, {CHANNELS}, h, w]; got {latents.dtype} "
                f"{list(latents.shape)}; choose a decoder that suits the model"
            )
        images, finite = list[Tensor](), list[Tensor]()
        for part in latents.to(device).split(batch):
            y = network.decode(to_vae_latents(part).to(dtype), return_dict=False)[0]
            images.append(to_bytes(y))
            finite.append(torch.isfinite(y).all())
        if not torch.stack(finite).all():  # they would become black pixels without a word
            raise UserError(f"the VAE's output in {dtype} is not finite; check the latents or use float32")
        return torch.cat(images)

    return decode


def _build(config: Path, weights: Path, dtype: torch.dtype) -> Any:
    """The autoencoder, frozen, on the CPU (Any: diffusers hides the types of its networks)."""
    options = _read_config(config)
    found = _read_weights(weights)
    network = empty_vae(options, config)
    found = fitting_tensors(weights, found, network.state_dict(), f"the {CLASS_NAME} of '{config}'")
    # Not network.to(dtype): diffusers warns of that without need. Copied because memory mapped from a file
    # may be aligned otherwise, which changes last bits.
    tensors = {name: value.to(dtype, copy=True) for name, value in found.items()}
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


def empty_vae(options: dict[str, Any], path: Path | None = None) -> Any:
    """The autoencoder of a config.json's options on the meta device: names and shapes, no values.

    path: of the config.json, for the UserError about options that make no autoencoder.
    """
    diffusers = need("diffusers", "the autoencoder of latents")  # slow to import
    try:
        with torch.device("meta"):  # no initial values, which take longer than all the rest
            return diffusers.AutoencoderKL.from_config(options)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        raise UserError(f"cannot build {CLASS_NAME} from '{path}': {error}; {NEXT_STEP}") from error


def sketch_vae(config: Path | None, dtype: torch.dtype) -> Sketch:
    """The autoencoder on the meta device, and its decoding of sampler latents there.

    config: its config.json; None is that of sd-vae-ft-mse. dtype: as in load_vae.
    """
    network = empty_vae(PUBLISHED_CONFIG if config is None else _read_config(config), config)
    nn.Module.to(network, dtype)  # diffusers' own warns without need
    scaled = LatentScaling("meta")
    return Sketch(network, lambda latents: network.decode(scaled(latents).to(dtype), return_dict=False)[0])


def _read_config(path: Path) -> dict[str, Any]:
    """The autoencoder's options; UserError unless it is one from 4 latent channels to 3 colours."""
    try:
        options = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}' as JSON ({error}); {NEXT_STEP}") from error
    if not isinstance(options, dict) or options.get("_class_name") != CLASS_NAME:
        name = options.get("_class_name") if isinstance(options, dict) else type(options).__name__
        raise UserError(f"'{path}' describes {name!r}, not {CLASS_NAME!r}; give that of sd-vae-ft-mse")
    for key, wanted in (("latent_channels", CHANNELS), ("out_channels", 3)):
        if options.get(key) != wanted:
            raise UserError(
                f"'{path}' has {key} {options.get(key)!r}; the decoder needs {wanted}; "
                "give the config.json of sd-vae-ft-mse"
            )
    return options


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, under the names that today's diffusers uses."""
    if path.suffix != ".safetensors":
        raise UserError(
            f"VAE weights '{path}' are not .safetensors, the only format read here; "
            "give 'diffusion_pytorch_model.safetensors' of sd-vae-ft-mse"
        )
    return {renamed(name): value for name, value in read_state_dict(path).items()}


def renamed(name: str) -> str:
    """`...attentions.N.query.weight` -> `...attentions.N.to_q.weight`; other names stay."""
    parts = name.split(".")
    if "attentions" in parts and parts[-2] in RENAMED:
        parts[-2] = RENAMED[parts[-2]]
    return ".".join(parts)
