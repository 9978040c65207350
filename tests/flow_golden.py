"""Golden networks of the diffusion transformers' programs, and what they printed for them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

import erk_bench
from erk_bench.networks.flow import FlowDenoiser
from tests.conftest import DATA, golden, golden_facts

FOLDER = DATA / "flow"
# Of each network: its file, and what the file does not tell.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sit_a": ("sit_a.pt", {"num_heads": 2}),
    "dit_a": ("dit_a.pt", {"num_heads": 2}),
    "lightningdit_a": ("lightningdit_a.pt", {}),
    "lightningdit_b": ("lightningdit_b.pt", {}),
    "repa_a": ("repa_a.pt", {"num_heads": 2}),
    "jit_a": ("jit_a_ema1.safetensors", {"in_context_start": 1}),
}


def family(name: str) -> str:
    """The family of a golden network."""
    return name.partition("_")[0]


@cache
def flow_net(name: str, dtype: torch.dtype = torch.float32) -> FlowDenoiser:
    """A golden network, ready for inference."""
    file, options = NETWORKS[name]
    net = erk_bench.load_denoiser(FOLDER / file, family=family(name), dtype=dtype, **options)
    assert isinstance(net, FlowDenoiser)
    return net


@cache
def flow_golden(name: str) -> dict[str, Tensor]:
    """What its program printed."""
    every = golden("flow/flow_golden")
    return {key.removeprefix(f"{name}."): value for key, value in every.items() if key.startswith(f"{name}.")}


def facts(name: str) -> dict[str, Any]:
    """Its constructor arguments and the settings of its sampler runs."""
    found: dict[str, Any] = golden_facts("flow/flow_golden")["networks"][name]
    return found


def far(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value where that is above 1."""
    return ((found - expected).abs().max() / max(1, expected.abs().max())).item()
