"""Every switch of the diffusion transformer, read off a file, gives what the formulas give."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import erk_bench
from erk_bench.networks.flow import FlowDenoiser
from erk_bench.networks.transformer import DiffusionTransformer
from tests.flow_golden import far
from tests.networks.plain_transformer import PlainTransformer, rotation

SWITCHES = [False, True]


def error(folder: Path, family: str, told: dict[str, Any], **arguments: Any) -> float:
    """How far a network of random weights, loaded in float64, is from the formulas."""
    shape = {"num_classes": 7, "hidden_size": 24, "depth": 3, "num_heads": 3, "mlp_hidden": 20}
    network = DiffusionTransformer(family, **shape, **arguments)
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        weights[name] = 0.2 * torch.randn(value.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            weights[name] += 1
    patch, size, channels = (arguments[name] for name in ("patch_size", "img_resolution", "img_channels"))
    if arguments.get("rope"):
        tables = [table.float() for table in rotation(size // patch, 8)]
        weights["feat_rope.freqs_cos"], weights["feat_rope.freqs_sin"] = tables
    stored = {name: each for name, each in weights.items() if family != "jit" or "rope" not in name}
    save_file(stored, path := folder / "net.safetensors")
    net = erk_bench.load_denoiser(path, family=family, dtype=torch.float64, **told)
    assert isinstance(net, FlowDenoiser) and net.network.num_heads == 3
    x = torch.randn(3, channels, size, size, generator=generator, dtype=torch.float64)
    t = torch.rand(3, generator=generator, dtype=torch.float64) * (999 if family == "dit" else 1)
    classes = torch.tensor([0, 3, 7])
    wide = {name: each.double() for name, each in weights.items()}
    start = arguments.get("in_context_start", 0)
    plain = PlainTransformer(wide, 3, patch, bool(arguments.get("rope")), start)
    with torch.inference_mode():
        found = net.network(x, t, classes)
        return far(found, plain(x, t, classes)[:, : found.shape[1]])


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("patch", [1, 2, 4, 8])
@pytest.mark.parametrize("family", ["dit", "sit", "repa"])
def test_plain_families(tmp_path: Path, family: str, patch: int, factor: int) -> None:
    for channels, qk_norm in itertools.product([1, 4, 16], ["", "layer"] if family == "repa" else [""]):
        assert error(
            tmp_path, family, {"num_heads": 3}, img_resolution=8, img_channels=channels, patch_size=patch,
            output_factor=factor, qk_norm=qk_norm, keep_variances=family == "dit",
        ) < 1e-12  # fmt: skip


@pytest.mark.parametrize("swiglu", SWITCHES)
@pytest.mark.parametrize("rms_norm", SWITCHES)
@pytest.mark.parametrize("rope", SWITCHES)
def test_lightningdit(tmp_path: Path, rope: bool, rms_norm: bool, swiglu: bool) -> None:
    """With and without shift, and norms of queries and keys."""
    for shift, qk_norm, factor in itertools.product(SWITCHES, SWITCHES, [1, 2]):
        told = {} if rope or qk_norm else {"num_heads": 3}
        assert error(
            tmp_path, "lightningdit", told, img_resolution=6, img_channels=5, patch_size=2, rms_norm=rms_norm,
            swiglu=swiglu, rope=rope, shift=shift, output_factor=factor,
            qk_norm=("rms" if rms_norm else "layer") if qk_norm else "",
        ) < 2e-6  # fmt: skip


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("tokens", [0, 1, 4])
def test_jit(tmp_path: Path, tokens: int, start: int) -> None:
    """Class tokens put in before any block, or none; its file has no tables."""
    for patch, bottleneck in itertools.product([4, 8], [4, 12]):
        context = {"in_context_start": start} if tokens else {}
        assert error(
            tmp_path, "jit", context, img_resolution=16, img_channels=3, patch_size=patch, rms_norm=True,
            swiglu=True, rope=True, qk_norm="rms", bottleneck=bottleneck, in_context_tokens=tokens, **context,
        ) < 2e-6  # fmt: skip
