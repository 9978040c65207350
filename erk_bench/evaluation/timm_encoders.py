"""Image encoders that timm has: the five of FDr6 (arXiv 2604.28190) beside Inception, and CMMD's CLIP.

Sizes, poolings and padding are those of the published evaluations, which are not always timm's own: DINOv2
and CLIP run at 256 pixels with patches of 14, so the image is padded with zeros to 266, and SigLIP at 224.
FDr6's CLIP has timm's exact GELU, not the approximation that it was trained with, and FDr6 is defined with
that. The published program computes in bfloat16 on a GPU; here it is float32 everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erk_bench.base.extras import need
from erk_bench.base.footprint import Sketch
from erk_bench.base.state_dicts import fitting_tensors, read_state_dict
from erk_bench.evaluation.extract import Extract, rgb_images

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PADDED = {"dynamic_img_size": True, "dynamic_img_pad": True}

Pool = Callable[[nn.Module, Tensor], Tensor]


def class_token(network: nn.Module, tokens: Tensor) -> Tensor:
    """[B, T, D] -> [B, D]"""
    return tokens[:, 0]


def spatial_mean(network: nn.Module, maps: Tensor) -> Tensor:
    """[B, D, H, W] -> [B, D]"""
    return maps.mean((2, 3))


def attention_pool(network: nn.Module, tokens: Tensor) -> Tensor:
    """[B, T, D] -> [B, D], by the network's own pooling layer."""
    pooled: Tensor = network.attn_pool(tokens)  # type: ignore[operator]  # a layer
    return pooled


def unit_embedding(network: nn.Module, tokens: Tensor) -> Tensor:
    """[B, T, W] -> [B, D]: the class token projected to where texts lie, too, of length 1."""
    return F.normalize(network.head(tokens[:, 0]), dim=1)  # type: ignore[operator]  # a layer


@dataclass(frozen=True)
class Encoder:
    """A network of timm and how images go in. side: pixels. norm: mean and standard deviation of channels.

    pool: from what `forward_features` gives to features. arguments: of timm's create_model. head: whether the
    file's last layer is used.
    """

    model: str
    side: int
    norm: tuple[tuple[float, ...], tuple[float, ...]]
    pool: Pool
    antialias: bool = True
    head: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)


ENCODERS = {
    "fdr6_convnext": Encoder("convnextv2_base.fcmae_ft_in22k_in1k", 224, IMAGENET, spatial_mean),
    "fdr6_dinov2": Encoder("vit_large_patch14_dinov2.lvd142m", 256, IMAGENET, class_token, arguments=PADDED),
    "fdr6_mae": Encoder("vit_large_patch16_224.mae", 224, IMAGENET, class_token, arguments=PADDED),
    "fdr6_siglip": Encoder(
        "vit_so400m_patch16_siglip_256.v2_webli", 224, HALF, attention_pool, arguments=PADDED
    ),
    "fdr6_clip": Encoder("vit_large_patch14_clip_224.openai", 256, CLIP, class_token, arguments=PADDED),
    "clip336": Encoder(
        "vit_large_patch14_clip_quickgelu_336.openai", 336, CLIP, unit_embedding, antialias=False, head=True
    ),
}


def normalized(images: Tensor, encoder: Encoder, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> float32 [B, 3, side, side] around 0: bicubic; overshoot beyond 0..255 is kept.

    mean, std: of the channels, [3, 1, 1], on the images' device.
    """
    x = images.float()
    if x.shape[2:] != (encoder.side, encoder.side):
        size = (encoder.side, encoder.side)
        x = F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=encoder.antialias)
    return (x - 255 * mean) / (255 * std)


def load(name: str, weights: Path, device: torch.device | str, **overrides: Any) -> Extract:
    """The encoder `name` of ENCODERS: "features" [B, D] float32 of uint8 images.

    weights: timm's state dict (model.safetensors of its page on Hugging Face). overrides: of the network's
    size, for smaller ones. Raises UserError for a file of another network; extract raises it for what are no
    images.
    """
    encoder = ENCODERS[name]
    network = _network(encoder, **overrides)
    found = read_state_dict(weights)
    if not encoder.head:
        found = {key: value for key, value in found.items() if not key.startswith("head.")}
        head = {key: value for key, value in network.state_dict().items() if key.startswith("head.")}
        found |= head  # layers without an effect on features, which files of classifiers do not have
    network.load_state_dict(fitting_tensors(weights, found, network.state_dict(), f"timm's {encoder.model}"))
    network = network.float().eval().requires_grad_(False).to(device)

    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in encoder.norm)

    @torch.inference_mode()
    def extract(images: Tensor) -> dict[str, Tensor]:
        x = normalized(rgb_images(images, name).to(device), encoder, mean, std)
        return {"features": encoder.pool(network, network.forward_features(x)).float().cpu()}

    return extract


def sketch(name: str) -> Sketch:
    """The encoder `name` of ENCODERS without numbers, on uint8 images [B, 3, H, W]."""
    encoder = ENCODERS[name]
    with torch.device("meta"):
        network = _network(encoder)
        mean, std = (torch.empty(3, 1, 1) for _ in encoder.norm)

    def run(images: Tensor) -> Tensor:
        return encoder.pool(network, network.forward_features(normalized(images, encoder, mean, std)))

    return Sketch(network, run)


def _network(encoder: Encoder, **overrides: Any) -> Any:
    timm = need("timm", f"the encoder '{encoder.model}'")  # slow to import
    sizes: dict[str, Any] = {} if encoder.head else {"num_classes": 0}
    return timm.create_model(encoder.model, **sizes, **encoder.arguments, **overrides)


load_convnext = partial(load, "fdr6_convnext")
load_dinov2 = partial(load, "fdr6_dinov2")
load_mae = partial(load, "fdr6_mae")
load_siglip = partial(load, "fdr6_siglip")
load_clip = partial(load, "fdr6_clip")
load_clip336 = partial(load, "clip336")
sketch_convnext = partial(sketch, "fdr6_convnext")
sketch_dinov2 = partial(sketch, "fdr6_dinov2")
sketch_mae = partial(sketch, "fdr6_mae")
sketch_siglip = partial(sketch, "fdr6_siglip")
sketch_clip = partial(sketch, "fdr6_clip")
sketch_clip336 = partial(sketch, "clip336")
