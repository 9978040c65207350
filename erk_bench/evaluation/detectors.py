"""Feature networks that metrics are computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import Tensor

from erk_bench.digits.data import load_digits
from erk_bench.digits.features import DigitsClassifier
from erk_bench.errors import UserError
from erk_bench.networks.checkpoint import file_sha256
from erk_bench.storage.assets import locate

DIGITS_WEIGHTS = "package:digits/weights/features.safetensors"


@dataclass(frozen=True)
class Detector:
    """A loaded feature network.

    key: name and hash of the weights; features of different keys never mix.
    extract: uint8 NCHW -> float32 tensors [B, ...] by name ("features", "logits").
    """

    key: str
    extract: Callable[[Tensor], dict[str, Tensor]]


def digits_network() -> DigitsClassifier:
    """The shipped digits classifier, on the CPU, frozen."""
    network = DigitsClassifier()
    network.load_state_dict(load_file(locate(DIGITS_WEIGHTS)))
    return network.eval().requires_grad_(False)


def digits_key() -> str:
    """Name and hash of the shipped digits classifier."""
    return f"digits-{file_sha256(locate(DIGITS_WEIGHTS))[:8]}"


def digits_detector(device: torch.device | str = "cpu") -> Detector:
    """The 64-d features and class logits of the digits classifier."""
    network = digits_network().to(device)

    @torch.inference_mode()
    def extract(images: Tensor) -> dict[str, Tensor]:
        if images.dtype != torch.uint8 or images.shape[1:] != (1, 8, 8):
            raise UserError(
                f"the digits detector takes uint8 images [B, 1, 8, 8]; got {images.dtype} "
                f"{list(images.shape)}; choose metrics that suit the model's images"
            )
        features, logits = network(images.to(device))
        return {"features": features.cpu(), "logits": logits.cpu()}

    return Detector(digits_key(), extract)


def digits_reference() -> Tensor:
    """All 1,797 real digits, uint8 [1797, 1, 8, 8]."""
    return load_digits().images


DETECTORS: dict[str, Callable[[torch.device | str], Detector]] = {"digits": digits_detector}

# Sets of real images to compare with, by name.
REFERENCES: dict[str, Callable[[], Tensor]] = {"digits": digits_reference}
