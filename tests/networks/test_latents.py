"""Decoders from network space to uint8 images."""

from __future__ import annotations

import torch

from erk_bench.networks.latents import DECODERS, rgb_to_uint8
from tests.conftest import golden


def test_rgb_decode_is_published() -> None:
    """Covers all levels, values between them (truncation, not rounding) and values out of range."""
    data = golden("edm2_encoders")
    pixels = data["rgb.pixels_float"]
    assert pixels.min() < -1 and pixels.max() > 1
    images = rgb_to_uint8(pixels)
    assert images.dtype == torch.uint8
    assert torch.equal(images, data["rgb.pixels_u8"])
    assert DECODERS["rgb"].decode is rgb_to_uint8


def test_rgb_decode_undoes_the_published_encoder() -> None:
    encoded = golden("edm2_encoders")["rgb.encoded_all_u8"]
    assert torch.equal(rgb_to_uint8(encoded).flatten(), torch.arange(256, dtype=torch.uint8))


def test_rgb_decode_of_other_dtypes() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 3.0])
    expected = torch.tensor([0, 0, 128, 191, 255, 255], dtype=torch.uint8)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        assert torch.equal(rgb_to_uint8(x.to(dtype)), expected)
