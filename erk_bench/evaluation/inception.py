"""Inception-v3 and VGG-16 as torch-fidelity 0.4.0 computes them, with weight files read safely.

torch-fidelity unpickles weight files without restriction, and a pickle can run code. Here the file is first
read as plain tensors and compared with the network, which is built without it; only then the tensors are
copied in. Nothing is ever downloaded.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

from erk_bench.base.footprint import Sketch
from erk_bench.base.state_dicts import fitting_tensors, read_state_dict
from erk_bench.evaluation.extract import Extract, rgb_images

INCEPTION_LAYERS = ("2048", "logits_unbiased")  # those of FID and of the Inception Score
INCEPTION_SIDE = 299  # pixels
# torch-fidelity's names of the layers up to the pool, in order.
LAYERS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3",
    "MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d",
    "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool",
)  # fmt: skip
SPATIAL_CHANNELS = 7  # of ADM's sFID
VGG16_LAYER = "fc2_relu"  # torch-fidelity's default for precision and recall; 4096-d


def load_inception(weights: Path, device: torch.device | str) -> Extract:
    """Inception-v3 (2015-12-05) as torch-fidelity 0.4.0 has it: "features" [B, 2048], "logits" [B, 1008].

    features: the pool layer, for FID; logits: without bias, for the Inception Score; "inception_spatial"
    [B, 2023]: for ADM's sFID, see `spatial_features`; all float32 and from one pass, images resized to 299 as
    TensorFlow 1 did. weights: torch-fidelity's
    `weights-inception-2015-12-05-6726825d.pth`, or the same tensors as .safetensors. Raises UserError for
    other files; extract raises it for other images.
    """
    network = _inception(weights, device)
    spatial = spatial_features(network)

    @torch.inference_mode()
    def extract(images: Tensor) -> dict[str, Tensor]:
        features, logits = network(rgb_images(images, "inception").to(device))
        return {"features": features.cpu(), "logits": logits.cpu(), "inception_spatial": spatial().cpu()}

    return extract


def load_inception_clean(weights: Path, device: torch.device | str) -> Extract:
    """As load_inception, but images are resized as clean-fid (arXiv 2104.11222) does: no spatial features."""

    def prepare(images: Tensor) -> Tensor:
        return (resize_clean(images) - 128) / 128

    return _prepared(weights, device, prepare, "inception_clean")


def load_inception_pytorch(weights: Path, device: torch.device | str) -> Extract:
    """As load_inception, but images are resized as pytorch-fid does: no spatial features.

    Bilinear, without antialiasing; 0 of the network is at 127.5, where TensorFlow's graph has it at 128.
    """

    def prepare(images: Tensor) -> Tensor:
        size = (INCEPTION_SIDE, INCEPTION_SIDE)
        return 2 * F.interpolate(images.float() / 255, size=size, mode="bilinear", align_corners=False) - 1

    return _prepared(weights, device, prepare, "inception_pytorch")


def resize_clean(images: Tensor) -> Tensor:
    """uint8 [B, C, H, W] -> float32 [B, C, 299, 299] on the same device, 0 to 255.

    Each channel is resized by PIL as a float image, bicubic and antialiased, and cut to 0..255, not rounded.
    """
    size = (INCEPTION_SIDE, INCEPTION_SIDE)
    channels = images.float().cpu().flatten(0, 1).numpy()
    resized = [np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BICUBIC)) for each in channels]
    stacked = np.stack(resized).clip(0, 255) if resized else np.empty((0, *size), np.float32)
    return torch.from_numpy(stacked).reshape(*images.shape[:2], *size).to(images.device)


def _prepared(
    weights: Path, device: torch.device | str, prepare: Callable[[Tensor], Tensor], name: str
) -> Extract:
    """The network on images that `prepare` takes to float32 [B, 3, 299, 299] around 0."""
    network = _inception(weights, device)

    @torch.inference_mode()
    def extract(images: Tensor) -> dict[str, Tensor]:
        x = prepare(rgb_images(images, name).to(device))
        for layer in LAYERS:
            x = getattr(network, layer)(x)
        features = x.flatten(1)
        return {"features": features.cpu(), "logits": (features @ network.fc.weight.T).cpu()}

    return extract


def _inception(weights: Path, device: torch.device | str) -> FeatureExtractorInceptionV3:
    network = empty_inception()
    found = read_state_dict(weights)
    tensors = fitting_tensors(weights, found, network.state_dict(), "torch-fidelity's Inception-v3")
    # Copied, not assigned: memory mapped from a file may be aligned otherwise, which changes last bits.
    network.to_empty(device=device).load_state_dict(tensors)
    return network


def spatial_features(network: FeatureExtractorInceptionV3) -> Callable[[], Tensor]:
    """Gives what ADM's sFID is computed from, of the last pass of the thread that asks: [B, 17 * 17 * 7].

    It is the first 7 of 192 channels of TensorFlow's layer mixed_6/conv, flattened as TensorFlow has them,
    rows, columns, channels: published statistics (mu_s, sigma_s) are in this order.
    """
    passed = threading.local()  # several threads score at a time, with one network

    def keep(module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        passed.features = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)

    def last() -> Tensor:
        features: Tensor = passed.features
        del passed.features  # its memory
        return features

    network.Mixed_6d.branch1x1.register_forward_hook(keep)
    return last


def load_vgg16(weights: Path, device: torch.device | str) -> Extract:
    """VGG-16 as torch-fidelity 0.4.0 uses it for precision and recall: "features" [B, 4096].

    features: layer 'fc2_relu', float32, images resized to 224 as TensorFlow 1 did. weights: torchvision's
    `vgg16-397923af.pth`, or the same tensors as .safetensors. Raises UserError for other files; extract
    raises it for other images.
    """
    expected = empty_vgg16().state_dict()
    found = read_state_dict(weights)
    tensors = fitting_tensors(weights, found, expected, "torchvision's VGG-16")
    network = _empty_vgg16_extractor()
    # The extractor has dropped the last layer.
    kept = {name: value for name, value in tensors.items() if not name.startswith("classifier.6.")}
    network.to_empty(device=device).model.load_state_dict(kept)

    @torch.inference_mode()
    def extract(images: Tensor) -> dict[str, Tensor]:
        (features,) = network(rgb_images(images, "vgg16").to(device))
        return {"features": features.cpu()}

    return extract


def empty_inception() -> FeatureExtractorInceptionV3:
    """torch-fidelity's Inception-v3 on the meta device: names and shapes, no values; frozen."""
    with torch.device("meta"):
        return _UnreadInception(
            "inception-v3-compat", list(INCEPTION_LAYERS), feature_extractor_weights_path=_pickled({})
        )


def empty_vgg16() -> torchvision.models.VGG:
    """torchvision's VGG-16 on the meta device: names and shapes, no values."""
    with torch.device("meta"):
        return torchvision.models.vgg16()


def sketch_inception() -> Sketch:
    """Inception-v3."""
    network = empty_inception()
    return Sketch(network, network)


def sketch_vgg16() -> Sketch:
    """VGG-16 up to its features, of images that are resized: torchvision's scaling of them needs numbers."""
    network = _empty_vgg16_extractor()
    side = network.INPUT_IMAGE_SIZE

    def run(images: Tensor) -> Tensor:
        features: Tensor = network.model(images.new_empty(len(images), 3, side, side, dtype=torch.float32))
        return features

    return Sketch(network, run)


def _empty_vgg16_extractor() -> FeatureExtractorVGG16:
    """torch-fidelity's VGG-16, which has dropped the last layer, on the meta device."""
    file = _pickled(empty_vgg16().state_dict())
    with torch.device("meta"):
        return FeatureExtractorVGG16("vgg16", [VGG16_LAYER], feature_extractor_weights_path=file)


class _UnreadInception(FeatureExtractorInceptionV3):  # type: ignore[misc]  # torch-fidelity is untyped
    """Inception-v3 whose constructor, which insists on loading a file, accepts one without tensors."""

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = False, assign: bool = False
    ) -> Any:
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def _pickled(tensors: Mapping[str, Tensor]) -> io.BytesIO:
    """A weight file in memory, for constructors that unpickle one: made here, so safe to unpickle."""
    file = io.BytesIO()
    torch.save(dict(tensors), file)
    file.seek(0)
    return file
