"""Inception-v3 and VGG-16 as torch-fidelity 0.4.0 computes them, with weight files read safely.

torch-fidelity unpickles weight files without restriction, and a pickle can run code. Here the file is first
read as plain tensors and compared with the network, which is built without it; only then the tensors are
copied in. Nothing is ever downloaded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

from erk_bench.base.footprint import Sketch
from erk_bench.base.state_dicts import fitting_tensors, read_state_dict
from erk_bench.evaluation.extract import Extract, rgb_images

INCEPTION_LAYERS = ("2048", "logits_unbiased")  # those of FID and of the Inception Score
VGG16_LAYER = "fc2_relu"  # torch-fidelity's default for precision and recall; 4096-d


def load_inception(weights: Path, device: torch.device | str) -> Extract:
    """Inception-v3 (2015-12-05) as torch-fidelity 0.4.0 has it: "features" [B, 2048], "logits" [B, 1008].

    features: the pool layer, for FID; logits: without bias, for the Inception Score; both float32 and from
    one pass, images resized to 299 as TensorFlow 1 did. weights: torch-fidelity's
    `weights-inception-2015-12-05-6726825d.pth`, or the same tensors as .safetensors. Raises UserError for
    other files; extract raises it for other images.
    """
    network = empty_inception()
    found = read_state_dict(weights)
    tensors = fitting_tensors(weights, found, network.state_dict(), "torch-fidelity's Inception-v3")
    # Copied, not assigned: memory mapped from a file may be aligned otherwise, which changes last bits.
    network.to_empty(device=device).load_state_dict(tensors)

    @torch.inference_mode()
    def extract(images: Tensor) -> dict[str, Tensor]:
        features, logits = network(rgb_images(images, "inception").to(device))
        return {"features": features.cpu(), "logits": logits.cpu()}

    return extract


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
