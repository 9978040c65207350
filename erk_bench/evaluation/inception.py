"""Inception-v3 and VGG-16 as torch-fidelity 0.4.0 computes them, with weight files read safely.

torch-fidelity unpickles weight files without restriction, and a pickle can run code. Here the file is first
read as plain tensors and compared with the network, which is built without it; only then the tensors are
copied in. Nothing is ever downloaded.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

from erk_bench.errors import UserError

# uint8 images NCHW on any device -> float32 CPU tensors by name: "features" [B, D], "logits" [B, K].
Extract = Callable[[Tensor], dict[str, Tensor]]

INCEPTION_LAYERS = ("2048", "logits_unbiased")  # those of FID and of the Inception Score
VGG16_LAYER = "fc2_relu"  # torch-fidelity's default for precision and recall; 4096-d
NEXT_STEP = "fetch it again ('erk-bench fetch') and check its source"

# What torch.load raises for damaged or foreign files; found by changing bytes of good ones.
UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Named tensors of a .safetensors file or of a pickle (.pth) that holds nothing but tensors, on the CPU.

    Nothing in the file is run. Raises UserError when it is missing, damaged or holds anything else.
    """
    if not path.is_file():
        raise UserError(f"no weight file at '{path}'; get it with 'erk-bench fetch', or check the path")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"'{path}' is no readable safetensors file ({error}); {NEXT_STEP}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        # torch's own text is not passed on: it recommends loading the file without the restriction.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it names '{named[1]}', which is no tensor" if named else "it is damaged or of another kind"
        raise UserError(
            f"'{path}' is no safe weight file: {what}; nothing in it was run; {NEXT_STEP}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' holds a {type(content).__name__}, not named tensors; {NEXT_STEP}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise UserError(
                f"entry {name!r} of '{path}' is a {type(value).__name__}, not a named tensor; {NEXT_STEP}"
            )
    return dict(content)


def fitting_tensors(
    path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], network: str
) -> dict[str, Tensor]:
    """`found`, read from `path`, after checking that it has the names and shapes of `expected`.

    BatchNorm's counters `num_batches_tracked` may be missing and become 0: inference does not use them, and
    weights converted from other programs lack them. Raises UserError naming the first tensor that does not
    fit.
    """
    counters = {name for name in expected if name.endswith(".num_batches_tracked")}
    wrong = {}
    for name in [*expected, *(name for name in found if name not in expected)]:
        if name not in found and name in counters:
            continue
        is_like = _described(found.get(name)), _described(expected.get(name))
        if is_like[0] != is_like[1]:
            wrong[name] = is_like
    if wrong:
        name, (here, wanted) = next(iter(wrong.items()))
        raise UserError(
            f"'{path}' does not fit {network}: tensor '{name}' is {here} in the file, {wanted} in the "
            f"network ({len(wrong)} tensors differ); {NEXT_STEP}"
        )
    return {name: torch.zeros((), dtype=torch.int64) for name in counters} | dict(found)


def check_images(images: Tensor, detector: str) -> None:
    """Raise UserError unless `images` is uint8 [B, 3, H, W]."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise UserError(
            f"the {detector} detector takes uint8 images [B, 3, H, W]; got {images.dtype} "
            f"{list(images.shape)}; convert them to RGB, or choose metrics that suit the model's images"
        )


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
        check_images(images, "inception")
        features, logits = network(images.to(device))
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
    file = _pickled(expected)
    with torch.device("meta"):
        network = FeatureExtractorVGG16("vgg16", [VGG16_LAYER], feature_extractor_weights_path=file)
    # The extractor has dropped the last layer.
    kept = {name: value for name, value in tensors.items() if not name.startswith("classifier.6.")}
    network.to_empty(device=device).model.load_state_dict(kept)

    @torch.inference_mode()
    def extract(images: Tensor) -> dict[str, Tensor]:
        check_images(images, "vgg16")
        (features,) = network(images.to(device))
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


def _described(tensor: Tensor | None) -> str:
    """Shape and kind of a tensor, for comparing and for messages."""
    if tensor is None:
        return "missing"
    kind = "floating point" if tensor.is_floating_point() else str(tensor.dtype)
    return f"{list(tensor.shape)} {kind}"
