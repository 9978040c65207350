"""Tiny or random weight files in the very formats of the published ones; nothing here was trained."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from erk_bench.evaluation.inception import empty_inception, empty_vgg16
from erk_bench.networks.transformer import DiffusionTransformer

# config.json of a two-level autoencoder, as stabilityai/sd-vae-ft-mse writes it for its four levels.
VAE_CONFIG: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.4.2",
    "act_fn": "silu",
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "out_channels": 3,
    "sample_size": 16,
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
}
VAE_FACTOR = 2  # pixels per latent, each way
# What the published file calls the attention layers that diffusers calls otherwise now.
OLD_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def write_vae(folder: Path, old_names: bool = True, seed: int = 0, levels: int = 2) -> Path:
    """config.json and diffusion_pytorch_model.safetensors of a tiny random VAE; returns the folder.

    old_names: name the attention layers as the published file does. levels: 4 give the published file's 8
    pixels per latent.
    """
    config = {
        **VAE_CONFIG,
        "block_out_channels": [8] * levels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    network: Any = AutoencoderKL.from_config(config)  # type: ignore[no-untyped-call]  # diffusers is untyped
    for name, value in network.state_dict().items():
        if old_names:
            for new, old in OLD_NAMES.items():
                name = name.replace(new, old)
        weights[name] = _random(value, generator) + (value if "norm" in name else 0)
    # The last bias puts the images around mid-gray, so that few values are clipped.
    weights["decoder.conv_out.bias"] = torch.full((3,), 0.5)
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    return folder


def write_inception(path: Path, seed: int = 0) -> Path:
    """torch-fidelity's Inception-v3 at full size (95 MB), as a state dict saved by torch.save."""
    torch.save(inception_weights(seed), path)
    return path


def inception_weights(seed: int = 0) -> dict[str, Tensor]:
    """Random weights that keep the activations' scale from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, value in empty_inception().state_dict().items():
        shape, kind = value.shape, name.rsplit(".", 1)[-1]
        if kind == "num_batches_tracked":
            weights[name] = torch.tensor(0)
        elif kind == "running_var":
            weights[name] = 0.5 + torch.rand(shape, generator=generator)
        elif ".bn." in name:  # weight about 1; bias and running_mean about 0
            weights[name] = 0.1 * torch.randn(shape, generator=generator) + (kind == "weight")
        else:
            weights[name] = 1.4 * _random(value, generator)  # sqrt(2): half of ReLU's inputs are cut
    return weights


def write_vgg16(path: Path, seed: int = 0) -> Path:
    """torchvision's VGG-16 at full size, as a state dict saved by torch.save (60 MB).

    The weights of the linear layers, 500 MB, are views of one short random storage: row i + 1 is row i moved
    by a few elements. torch.save stores storages, so the file stays small.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, value in empty_vgg16().state_dict().items():
        if name.startswith("classifier") and value.ndim == 2:
            rows, columns = value.shape
            storage = torch.randn(7 * rows + columns, generator=generator) * (2 / columns) ** 0.5
            weights[name] = storage.as_strided((rows, columns), (7, 1))
        else:
            weights[name] = 1.4 * _random(value, generator)
    torch.save(weights, path)
    return path


def write_dinov2(path: Path, width: int = 64, depth: int = 2, seed: int = 0) -> Path:
    """A small DINOv2 (patch 14, 37 x 37 positions) under the original's names, saved by torch.save."""
    torch.save(dinov2_weights(width, depth, seed), path)
    return path


def dinov2_weights(width: int = 64, depth: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Names, shapes and order of `dinov2_vitl14_pretrain.pth`, smaller; random values."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1370, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
    }
    for block in range(depth):
        layers: dict[str, tuple[int, ...]] = {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "ls1.gamma": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
            "ls2.gamma": (width,),
        }
        shapes |= {f"blocks.{block}.{name}": shape for name, shape in layers.items()}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    generator = torch.Generator().manual_seed(seed)
    weights = {name: _random(torch.empty(shape), generator) for name, shape in shapes.items()}
    for name in weights:
        if "norm" in name and name.endswith("weight"):
            weights[name] += 1
        if name.endswith("gamma"):
            weights[name] += 0.5
    return weights


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    """Normal values for a tensor of this shape: 1/sqrt(fan-in) for weights, 0.1 for vectors."""
    std = 0.1 if like.ndim < 2 else like[0].numel() ** -0.5
    return std * torch.randn(like.shape, generator=generator)


# Two narrow blocks of each family, for the states of its presets of 256 pixels; the arguments of its network.
_LATENTS = {"img_resolution": 32, "img_channels": 4, "patch_size": 8}
_TODAY = {"rms_norm": True, "swiglu": True, "rope": True}
TINY_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "dit": {**_LATENTS, "output_factor": 2, "keep_variances": True},
    "sit": {**_LATENTS, "output_factor": 2},
    "repa": _LATENTS,
    "lightningdit": {"img_resolution": 16, "img_channels": 32, "patch_size": 4, **_TODAY},
    "jit": {
        "img_resolution": 256, "img_channels": 3, "patch_size": 64, "bottleneck": 8,
        **_TODAY, "qk_norm": "rms", "in_context_tokens": 3, "in_context_start": 1,
    },
}  # fmt: skip


def transformer_weights(family: str, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of a tiny network, under the names that the family's program gives them."""
    size = {"num_classes": 1000, "hidden_size": 32, "depth": 2, "num_heads": 2, "mlp_hidden": 64}
    network = DiffusionTransformer(family, **size, **TINY_TRANSFORMERS[family])
    generator = torch.Generator().manual_seed(seed)
    weights = {name: _random(value, generator) for name, value in network.state_dict().items()}
    if family == "repa":  # which training alone needs
        weights |= {f"projectors.0.{n}.weight": _random(torch.empty(8, 8), generator) for n in (0, 2, 4)}
    return weights


def write_transformer(path: Path, family: str, seed: int = 0) -> Path:
    """A tiny random checkpoint as the family's program writes it, or safetensors where path ends so."""
    weights, other = transformer_weights(family, seed), transformer_weights(family, seed + 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(weights, path)
        return path
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}, "param_groups": []}
    args = argparse.Namespace(image_size=256)
    content: dict[str, Any] = {
        "dit": weights,
        "sit": {"model": other, "ema": weights, "opt": optimizer, "args": args},
        "repa": {"model": other, "ema": weights, "opt": optimizer, "args": args, "steps": 7},
        "lightningdit": {"model": _prefixed("module.", other), "ema": weights, "opt": optimizer},
        "jit": {
            "model": _prefixed("net.", other), "optimizer": optimizer, "epoch": 3, "args": args,
            "model_ema1": _prefixed("net.", weights), "model_ema2": _prefixed("net.", other),
        },
    }[family]  # fmt: skip
    torch.save(content, path)
    return path


def _prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights.items()}
