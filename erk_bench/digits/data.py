"""The 1,797 real 8x8 digits of scikit-learn, in the units that the networks use."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

# Mean and standard deviation of all pixels of load_digits (values 0..16); a test recomputes them.
PIXEL_MEAN = 4.884164579855314
PIXEL_STD = 6.016787548672236
MAX_PIXEL = 16
NUM_CLASSES = 10
RESOLUTION = 8


class Digits(NamedTuple):
    """All digits: images uint8 [1797, 1, 8, 8] with values 0..255, labels int64 [1797]."""

    images: Tensor
    labels: Tensor


@functools.cache
def load_digits() -> Digits:
    """The data set as uint8 images: pixel value k of 0..16 becomes round(k * 255 / 16).

    All callers get the same tensors, and leave them as they are.
    """
    from sklearn import datasets  # slow to import; only digits runs need it

    raw = datasets.load_digits()
    pixels = torch.from_numpy(raw.images).float()[:, None]
    return Digits((pixels * (255 / MAX_PIXEL)).round().to(torch.uint8), torch.from_numpy(raw.target).long())


def encode(images: Tensor) -> Tensor:
    """uint8 images -> float32 network space, standardised to standard deviation 0.5."""
    pixels = images.float() * (MAX_PIXEL / 255)
    return (pixels - PIXEL_MEAN) / (2 * PIXEL_STD)


def decode(x: Tensor) -> Tensor:
    """Network space -> uint8 images, rounded and clipped; the inverse of `encode`."""
    pixels = x.float() * (2 * PIXEL_STD) + PIXEL_MEAN
    return (pixels * (255 / MAX_PIXEL)).round().clip(0, 255).to(torch.uint8)
