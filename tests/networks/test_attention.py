"""Attention: fused and by products are the same formula, and both give the published outputs."""

from __future__ import annotations

import copy

import pytest
import torch

from erk_bench.networks.attention import by_float32_weights, by_products, fused
from erk_bench.networks.denoiser import EDMPreconditioned
from erk_bench.networks.edm1_layers import UNetBlock
from erk_bench.networks.edm2 import MPBlock
from tests.conftest import golden, golden_net


def tensors(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, 4, 16, 8, generator=generator).to(dtype)


def published(letter: str) -> EDMPreconditioned:
    net = copy.deepcopy(golden_net(letter))
    net.network.use_published_attention()
    return net


def test_it_is_one_formula() -> None:
    q, k, v = tensors()
    expected = torch.softmax(q @ k.transpose(-2, -1) / 8**0.5, dim=-1) @ v
    for attention in (fused, by_products, by_float32_weights):
        assert (attention(q, k, v) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_edm_are_float32(dtype: torch.dtype) -> None:
    q, k, v = tensors(dtype)
    exact = fused(q.double(), k.double(), v.double())
    errors = [
        (attention(q, k, v) - exact).abs().max().item() for attention in (by_products, by_float32_weights)
    ]
    assert by_float32_weights(q, k, v).dtype == dtype
    assert errors[1] < errors[0]


@pytest.mark.parametrize("letter", "abcdefghi")
def test_networks_give_the_published_outputs(letter: str) -> None:
    data = golden("edm2_denoiser" if letter in "abcde" else "edm1_denoiser")
    x = data[f"{letter}.clean"] + 2.0 * data[f"{letter}.noise"]
    found = published(letter)(x, torch.tensor(2.0), data.get(f"{letter}.labels"))
    assert (found - data[f"{letter}.sigma2.D"]).abs().max() < 1e-5


@pytest.mark.parametrize(("letter", "expected"), [("a", by_products), ("g", by_float32_weights)])
def test_every_block_of_a_network_is_switched(letter: str, expected: object) -> None:
    blocks = [module for module in published(letter).modules() if isinstance(module, (MPBlock, UNetBlock))]
    assert any(block.num_heads for block in blocks)
    assert {block.attention for block in blocks} == {expected}
    assert not any(
        module.attention is expected
        for module in golden_net(letter).modules()
        if hasattr(module, "attention")
    )
