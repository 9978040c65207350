"""EfficientNet-Lite0 as a detector, on a random network's weights under the package's names."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.evaluation.detectors import DETECTORS, detector_key
from erk_bench.evaluation.lite0 import COUNTER, DIM, MODEL, SIDE, load


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(3)
    return timm.create_model(MODEL).eval().requires_grad_(False)


@pytest.fixture
def weights(network: torch.nn.Module, tmp_path: Path) -> Path:
    """Its state dict, with names of another program in the same order, without some of the counters."""
    tensors: dict[str, Tensor] = {}
    for number, (name, value) in enumerate(network.state_dict().items()):
        if not name.endswith(COUNTER) or number % 2:
            tensors[f"_{number}.{COUNTER if name.endswith(COUNTER) else 'weight'}"] = value
    torch.save(tensors, tmp_path / "net.pth")
    return tmp_path / "net.pth"


def images(count: int, side: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


def test_features_are_the_pooled_maps_before_the_head(network: torch.nn.Module, weights: Path) -> None:
    found = load(weights, "cpu")(images(2, SIDE))
    inputs = (images(2, SIDE).float() - 127) / 128
    head = []
    handle = network.conv_head.register_forward_pre_hook(lambda layer, given: head.append(given[0]))
    logits = network(inputs)
    handle.remove()
    assert found["features"].shape == (2, DIM) and found["features"].dtype == torch.float32
    assert (found["features"] - head[0].mean((2, 3))).abs().max() < 1e-5
    assert (found["logits"] - logits).abs().max() < 1e-5


def test_small_and_grey_images_are_enlarged(weights: Path) -> None:
    extract = load(weights, "cpu")
    flat = torch.full((1, 1, 16, 16), 200, dtype=torch.uint8)
    enlarged = torch.full((1, 3, SIDE, SIDE), 200, dtype=torch.uint8)
    assert (extract(flat)["features"] - extract(enlarged)["features"]).abs().max() < 1e-5
    with pytest.raises(UserError, match="the lite0 detector takes uint8 images"):
        extract(images(1, 16).float())


def test_another_network_is_refused(weights: Path) -> None:
    tensors = torch.load(weights, weights_only=True)
    del tensors[next(iter(tensors))]
    torch.save(tensors, weights)
    with pytest.raises(UserError, match="does not hold EfficientNet-Lite0's 247 tensors"):
        load(weights, "cpu")


def test_the_key_is_known_without_the_package(tmp_path: Path) -> None:
    assets = Assets(tmp_path, Path(__file__).parents[2] / "configs" / "assets.lock", offline=True)
    assert detector_key("lite0", assets) == "lite0-57934424"
    assert DETECTORS["lite0"].dim == DIM == 320
