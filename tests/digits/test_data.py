"""The digits data: its units, and that encoding loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import datasets

from erk_bench.digits.data import MAX_PIXEL, PIXEL_MEAN, PIXEL_STD, decode, encode, load_digits
from erk_bench.networks.decoders import DECODERS


def test_pixel_statistics_are_those_of_the_data() -> None:
    pixels = datasets.load_digits().images.astype(np.float64)
    assert pixels.mean() == pytest.approx(PIXEL_MEAN, rel=1e-12)
    assert pixels.std() == pytest.approx(PIXEL_STD, rel=1e-12)
    assert (pixels.min(), pixels.max()) == (0, MAX_PIXEL)


def test_shapes_types_and_range() -> None:
    digits = load_digits()
    assert digits.images.shape == (1797, 1, 8, 8) and digits.images.dtype == torch.uint8
    assert digits.labels.shape == (1797,) and digits.labels.dtype == torch.int64
    assert digits.images.min() == 0 and digits.images.max() == 255
    assert digits.images.unique().numel() == MAX_PIXEL + 1
    assert digits.labels.unique().tolist() == list(range(10))


def test_images_are_the_pixels_of_scikit_learn() -> None:
    raw = datasets.load_digits()
    digits = load_digits()
    assert np.array_equal(np.rint(digits.images[:, 0].numpy() * (16 / 255)), raw.images)
    assert np.array_equal(digits.labels.numpy(), raw.target)


def test_encode_standardises() -> None:
    x = encode(load_digits().images)
    assert x.shape == (1797, 1, 8, 8) and x.dtype == torch.float32
    # Pixel k is stored as round(k * 255 / 16); without that rounding the units are exact.
    assert x.double().mean().item() == pytest.approx(0, abs=5e-4)
    assert x.double().std(correction=0).item() == pytest.approx(0.5, abs=5e-4)
    exact = encode(torch.from_numpy(datasets.load_digits().images) * (255 / MAX_PIXEL))
    assert exact.double().mean().item() == pytest.approx(0, abs=1e-6)
    assert exact.double().std(correction=0).item() == pytest.approx(0.5, abs=1e-6)


def test_decode_inverts_encode() -> None:
    images = load_digits().images
    assert torch.equal(decode(encode(images)), images)
    every_value = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(decode(encode(every_value)), every_value)
    assert DECODERS["digits"].decode is decode


def test_decode_rounds_and_clips() -> None:
    x = encode(torch.tensor([100], dtype=torch.uint8)).reshape(1, 1, 1, 1)
    step = encode(torch.tensor([101], dtype=torch.uint8)).reshape(1, 1, 1, 1) - x
    assert decode(x + 0.4 * step).item() == 100
    assert decode(x + 0.6 * step).item() == 101
    assert decode(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]
    assert decode(x.double()).dtype == torch.uint8
