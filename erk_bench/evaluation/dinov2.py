"""DINOv2 class tokens, as Frechet distances in DINOv2 features are computed from (arXiv 2306.04675).

Two detectors with different numbers, hence two names: `dinov2_torch` resizes as EDM2 (arXiv 2312.02696) does,
`dinov2_pil` as dgm-eval (arXiv 2306.04675) does. torch-fidelity's own DINOv2 extractor is comparable with
neither: it resizes bilinearly, without antialiasing, as TensorFlow 1 did for Inception, so its features of a
512-pixel image are those of an aliased one. Nor is timm's own loading of these weights: it resamples the
position embedding to a given size, where the original passes a scale factor with an offset of 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from erk_bench.base.errors import UserError
from erk_bench.base.extras import need
from erk_bench.base.footprint import Sketch
from erk_bench.base.state_dicts import NEXT_STEP, fitting_tensors, read_state_dict
from erk_bench.evaluation.extract import Extract, rgb_images

RESOLUTION = 224
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
POSITION_OFFSET = 0.1  # of the original's position embedding, see interpolate_positions
HEAD_WIDTH = 64  # of all published DINOv2 networks
NETWORK = "a DINOv2 vision transformer"


def load_dinov2_torch(weights: Path, device: torch.device | str, num_heads: int | None = None) -> Extract:
    """DINOv2 on images resized by torch, as EDM2 does: "features" [B, D], with D = 1024 for ViT-L.

    features: the class token after the final norm, float32. weights: the original
    `dinov2_vitl14_pretrain.pth` (or another size with a plain MLP and without registers), or the same tensors
    as .safetensors; size and patch are read off it. num_heads: width / 64 unless given. Raises UserError for
    other files; extract raises it for other images.
    """
    return _load(weights, device, num_heads, resize_torch, "dinov2_torch")


def load_dinov2_pil(weights: Path, device: torch.device | str, num_heads: int | None = None) -> Extract:
    """As load_dinov2_torch, but images are resized by PIL (bicubic, rounded to uint8), as dgm-eval does."""
    return _load(weights, device, num_heads, resize_pil, "dinov2_pil")


def resize_torch(images: Tensor) -> Tensor:
    """uint8 NCHW -> float32 [B, C, 224, 224], antialiased bicubic; overshoot beyond 0..255 is kept."""
    size = (RESOLUTION, RESOLUTION)
    return F.interpolate(images.float(), size=size, mode="bicubic", antialias=True)


def resize_pil(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> float32 [B, 3, 224, 224] on the same device, whole numbers 0 to 255."""
    size = (RESOLUTION, RESOLUTION)
    resized = [
        np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        for image in images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    ]
    stacked = np.stack(resized) if resized else np.empty((0, *size, 3), np.uint8)
    return torch.from_numpy(stacked).to(images.device).permute(0, 3, 1, 2).float()


class Normalize:
    """float NCHW, 0 to 255 -> ImageNet's mean 0 and standard deviation 1, per channel."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        both = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        self._mean, self._std = (values.to(device) for values in both)

    def __call__(self, x: Tensor) -> Tensor:
        return (x / 255 - self._mean) / self._std


def interpolate_positions(pos_embed: Tensor, grid: int) -> Tensor:
    """Position embedding [1, 1 + G*G, D], class token first, at another grid: [1, 1 + grid*grid, D], float32.

    As facebookresearch/dinov2 does: bicubic, no antialiasing, by the scale factor (grid + 0.1)/G rather than
    to an output size, which gives other sampling positions. The same grid is left as it is.
    """
    token, patches = pos_embed[:, :1].float(), pos_embed[:, 1:].float()
    side = round(patches.shape[1] ** 0.5)
    if side == grid:
        return pos_embed.float()
    image = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factor = (grid + POSITION_OFFSET) / side
    image = F.interpolate(image, scale_factor=(factor, factor), mode="bicubic", antialias=False)
    return torch.cat([token, image.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def build_dinov2(weights: Path, num_heads: int | None = None) -> nn.Module:
    """The network of a weight file: normalised float [B, 3, 224, 224] -> class token [B, D], on the CPU.

    Raises UserError for a file that is no such network.
    """
    found = read_state_dict(weights)
    found.pop("mask_token", None)  # only training uses it
    width, _, patch, _ = _shape(weights, found, "patch_embed.proj.weight", (None, 3, None, None))
    _, tokens, _ = _shape(weights, found, "pos_embed", (1, None, width))
    hidden, _ = _shape(weights, found, "blocks.0.mlp.fc1.weight", (None, width))
    depth = sum(name.startswith("blocks.") and name.endswith(".norm1.weight") for name in found)
    num_heads = width // HEAD_WIDTH if num_heads is None else num_heads
    if num_heads < 1 or width % num_heads:
        raise UserError(
            f"{num_heads} heads do not divide the {width} channels of '{weights}'; published DINOv2 networks "
            f"have {HEAD_WIDTH} channels a head; give num_heads for another"
        )
    side = round((tokens - 1) ** 0.5)
    if tokens < 2 or side * side != tokens - 1 or patch < 1 or RESOLUTION % patch:
        raise UserError(
            f"'{weights}' has {tokens} positions and patches of {patch} pixels; DINOv2 has 1 + G*G positions "
            f"and patches that divide {RESOLUTION}; {NEXT_STEP}"
        )
    network = _transformer(patch, width, depth, num_heads, hidden / width)
    found["pos_embed"] = interpolate_positions(found["pos_embed"], RESOLUTION // patch)
    tensors = fitting_tensors(weights, found, network.state_dict(), NETWORK)
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def _transformer(patch: int, width: int, depth: int, num_heads: int, mlp_ratio: float) -> nn.Module:
    timm = need("timm", "DINOv2")  # slow to import
    return timm.models.vision_transformer.VisionTransformer(
        img_size=RESOLUTION,
        patch_size=patch,
        num_classes=0,
        embed_dim=width,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        init_values=1.0,  # layer scale is present; its values come from the file
        weight_init="skip",
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )


def sketch_torch() -> Sketch:
    """DINOv2 ViT-L/14 and its resizing."""
    network, normalize = _sketched(), Normalize("meta")
    return Sketch(network, lambda images: network(normalize(resize_torch(images))))


def sketch_pil() -> Sketch:
    """DINOv2 ViT-L/14 on images that PIL has resized."""
    network, normalize = _sketched(), Normalize("meta")

    def run(images: Tensor) -> Tensor:
        resized = images.new_empty(*images.shape[:2], RESOLUTION, RESOLUTION, dtype=torch.float32)
        features: Tensor = network(normalize(resized))
        return features

    return Sketch(network, run)


def _sketched() -> nn.Module:
    with torch.device("meta"):
        return _transformer(patch=14, width=1024, depth=24, num_heads=16, mlp_ratio=4)


def _load(
    weights: Path,
    device: torch.device | str,
    num_heads: int | None,
    resize: Callable[[Tensor], Tensor],
    name: str,
) -> Extract:
    network = build_dinov2(weights, num_heads).to(device)
    normalize = Normalize(device)

    @torch.inference_mode()
    def extract(images: Tensor) -> dict[str, Tensor]:
        return {"features": network(normalize(resize(rgb_images(images, name).to(device)))).cpu()}

    return extract


def _shape(
    path: Path, found: Mapping[str, Tensor], name: str, expected: tuple[int | None, ...]
) -> tuple[int, ...]:
    """Shape of tensor `name`; UserError unless it is `expected`, where None is any size."""
    shape = tuple(found[name].shape) if name in found else ()
    if len(shape) != len(expected) or any(
        want not in (None, size) for size, want in zip(shape, expected, strict=True)
    ):
        here = list(shape) if name in found else "missing"
        wanted = ", ".join("any" if want is None else str(want) for want in expected)
        raise UserError(
            f"'{path}' does not fit {NETWORK}: tensor '{name}' is {here} in the file, [{wanted}] in the "
            f"network; {NEXT_STEP}"
        )
    return shape
