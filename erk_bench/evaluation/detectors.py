"""Feature networks that metrics are computed from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.digits.classifier import DigitsClassifier
from erk_bench.digits.data import RESOLUTION

DIGITS_WEIGHTS = "package:digits/weights/features.safetensors"

PUBLISHED_DIM = 1024  # DINOv2 ViT-L/14

# uint8 NCHW on any device -> float32 CPU tensors [B, ...] by name: "features", "logits" if there are any.
Extract = Callable[[Tensor], dict[str, Tensor]]


class Detector(NamedTuple):
    """A row of DETECTORS. weights: their address. dim, num_logits: widths of its features and logits.

    dim is None where the file of weights decides; then published ones have PUBLISHED_DIM. channels: numbers
    of them that a model's images may have; grey ones get three equal channels where the network takes three
    (`rgb_images`). resolution: side of its images; None is any.
    """

    weights: str
    load: Callable[[Path, torch.device | str], Extract]
    dim: int | None
    num_logits: int
    channels: tuple[int, ...] = (1, 3)
    resolution: int | None = None


def rgb_images(images: Tensor, detector: str) -> Tensor:
    """uint8 [B, 3, H, W]; grey images [B, 1, H, W] get three equal channels, as the published tools do.

    Raises UserError for anything else.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"the {detector} detector takes uint8 images [B, 3, H, W], or [B, 1, H, W] of grey; got "
            f"{images.dtype} {list(images.shape)}; convert them to RGB, or choose metrics that suit the "
            "model's images"
        )
    return images.expand(-1, 3, -1, -1)


def grey_digits(images: Tensor, detector: str) -> Tensor:
    """uint8 [B, 1, 8, 8], of images that may have three equal channels. Raises UserError for others."""
    sizes = [(channels, RESOLUTION, RESOLUTION) for channels in (1, 3)]
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) not in sizes:
        raise UserError(
            f"{detector} takes uint8 images [B, 1, 8, 8] or [B, 3, 8, 8]; got {images.dtype} "
            f"{list(images.shape)}; choose metrics that suit the model's images, or resize them before"
        )
    grey = images[:, :1]
    if not (images == grey).all():
        raise UserError(f"{detector} takes grey images, but the channels differ; convert them to grey")
    return grey


def digits_network(weights: Path) -> DigitsClassifier:
    """The digits classifier, on the CPU, frozen."""
    network = DigitsClassifier()
    network.load_state_dict(load_file(weights))
    return network.eval().requires_grad_(False)


def load_digits_detector(weights: Path, device: torch.device | str = "cpu") -> Extract:
    """The 64-d features and class logits of the digits classifier."""
    network = digits_network(weights).to(device)

    @torch.inference_mode()
    def extract(images: Tensor) -> dict[str, Tensor]:
        features, logits = network(grey_digits(images, "the digits detector").to(device))
        return {"features": features.cpu(), "logits": logits.cpu()}

    return extract


# These import when they are used: timm and torch-fidelity take seconds.
def _load_inception(weights: Path, device: torch.device | str) -> Extract:
    from erk_bench.evaluation.inception import load_inception

    return load_inception(weights, device)


def _load_vgg16(weights: Path, device: torch.device | str) -> Extract:
    from erk_bench.evaluation.inception import load_vgg16

    return load_vgg16(weights, device)


def _load_dinov2_torch(weights: Path, device: torch.device | str) -> Extract:
    from erk_bench.evaluation.dinov2 import load_dinov2_torch

    return load_dinov2_torch(weights, device)


def _load_dinov2_pil(weights: Path, device: torch.device | str) -> Extract:
    from erk_bench.evaluation.dinov2 import load_dinov2_pil

    return load_dinov2_pil(weights, device)


_DINOV2 = "dinov2:dinov2_vitl14/dinov2_vitl14_pretrain.pth"

DETECTORS: dict[str, Detector] = {
    "digits": Detector(DIGITS_WEIGHTS, load_digits_detector, 64, 10, channels=(1,), resolution=RESOLUTION),
    "inception": Detector(
        "torch_fidelity:v0.2.0/weights-inception-2015-12-05-6726825d.pth", _load_inception, 2048, 1008
    ),
    "vgg16": Detector("pytorch:vgg16-397923af.pth", _load_vgg16, 4096, 0),
    "dinov2_torch": Detector(_DINOV2, _load_dinov2_torch, None, 0),
    "dinov2_pil": Detector(_DINOV2, _load_dinov2_pil, None, 0),
}


def detector_key(name: str, assets: Assets) -> str:
    """Name and hash of the weights; features of different keys never mix.

    Raises UserError while the weights were never here, so that nobody knows their hash.
    """
    address = DETECTORS[name].weights
    expected = assets.expected_sha256(address) or ""
    digest = expected if len(expected) == 64 else assets.sha256(address)
    return f"{name}-{digest[:8]}"


@functools.cache
def load_detector(name: str, assets: Assets, device: torch.device | str) -> Extract:
    """The feature network `name`, kept for the next caller; its weights are fetched if missing."""
    row = DETECTORS[name]
    return row.load(assets.locate(row.weights), device)
