"""What a feature network takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError

# uint8 NCHW on any device -> float32 CPU tensors [B, ...] by name: "features", "logits" if there are any.
# What a loader gives has the features of the network's views beside, under the names of their detectors.
Extract = Callable[[Tensor], dict[str, Tensor]]


class Detector(NamedTuple):
    """A row of DETECTORS.

    title: in the names of metrics. weights: their address; None where there are none. load: module:function
    of (weights, device) -> Extract, imported when it is used. dim, num_logits: widths of its features and
    logits. dim is None where the file of weights decides; then published ones have PUBLISHED_DIM. channels:
    numbers of them that a model's images may have; grey ones get three equal channels where the network takes
    three (`rgb_images`). resolution: side of its images; None is any. sketch: module:function of () -> Sketch
    of the published network, on uint8 images, to count what it takes. view_of: the detector whose network
    gives its features beside its own, under this detector's name; both come from one pass. package: of
    EXTRAS, which the network is built with.
    """

    title: str
    weights: str | None
    load: str
    dim: int | None
    num_logits: int
    channels: tuple[int, ...] = (1, 3)
    resolution: int | None = None
    sketch: str | None = None
    view_of: str | None = None
    package: str | None = None


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
