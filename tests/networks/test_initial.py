"""Random initial values."""

from __future__ import annotations

import math

import torch

from erk_bench.networks.initial import normal_values, uniform_values


def test_values_are_those_of_torch() -> None:
    torch.manual_seed(3)
    expected = [torch.randn(5, 7, 3, 3), 2 * math.pi * torch.randn(9), 2 * math.pi * torch.rand(9)]
    torch.manual_seed(3)
    made = [normal_values(5, 7, 3, 3), normal_values(9, scale=2 * math.pi)]
    made.append(uniform_values(9, scale=2 * math.pi))
    assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))


def test_the_meta_device_has_shapes_only() -> None:
    with torch.device("meta"):
        assert normal_values(2, 3).is_meta and normal_values(2, 3).shape == (2, 3)
        assert uniform_values(4, scale=2.0).is_meta
