"""DINOv2: the original's position embedding and features, EDM2's and dgm-eval's resizing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.dinov2 import (
    Normalize,
    build_dinov2,
    interpolate_positions,
    load_dinov2_pil,
    load_dinov2_torch,
    resize_pil,
    resize_torch,
)
from erk_bench.evaluation.extract import Extract
from tests.assets import dinov2_weights, write_dinov2
from tests.conftest import golden

HEADS = 3  # of the golden network, which is 48 wide


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden network in the published file's format, with the token that only training uses."""
    weights = {
        name.removeprefix("state."): value
        for name, value in golden("dinov2_tiny").items()
        if name.startswith("state.")
    }
    weights["mask_token"] = torch.zeros(1, 48)
    path = tmp_path_factory.mktemp("dinov2") / "dinov2.pth"
    torch.save(weights, path)
    return path


def images(size: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, 3, size, size), generator=generator, dtype=torch.uint8)


def test_positions_are_the_originals() -> None:
    data = golden("dinov2_tiny")
    found = interpolate_positions(data["state.pos_embed"], 16)
    assert found.shape == (1, 257, 48)
    assert torch.equal(found, data["pos_embed_16x16"])


def test_positions_of_an_output_size_are_others() -> None:
    data = golden("dinov2_tiny")
    grid = data["state.pos_embed"][:, 1:].reshape(1, 37, 37, 48).permute(0, 3, 1, 2)
    by_size = F.interpolate(grid, size=(16, 16), mode="bicubic").permute(0, 2, 3, 1).flatten(1, 2)
    assert (by_size - data["pos_embed_16x16"][:, 1:]).abs().max() > 1e-2


def test_positions_of_the_same_grid_stay() -> None:
    embedding = golden("dinov2_tiny")["state.pos_embed"]
    assert torch.equal(interpolate_positions(embedding, 37), embedding)


def test_input_is_edm2s() -> None:
    data = golden("dinov2_tiny")
    found = Normalize()(resize_torch(data["images_uint8"]))
    assert found.shape == (2, 3, 224, 224) and found.dtype == torch.float32
    assert (found - data["input_224"]).abs().max() <= 1e-6 * data["input_224"].abs().max()


def test_network_is_the_originals(published: Path) -> None:
    """Up to float32: the golden features themselves are 0.9e-6 away from the same network in float64."""
    data = golden("dinov2_tiny")
    with torch.inference_mode():
        found = build_dinov2(published, HEADS)(data["input_224"])
    assert (found - data["features_224"]).abs().max() <= 2e-6


def test_features_are_the_originals(published: Path) -> None:
    data = golden("dinov2_tiny")
    found = load_dinov2_torch(published, "cpu", HEADS)(data["images_uint8"])
    assert list(found) == ["features"]
    assert found["features"].dtype == torch.float32 and found["features"].shape == (2, 48)
    assert (found["features"] - data["features_224"]).abs().max() <= 2e-6
    # Neither the features at another resolution nor another number of heads would pass.
    assert (data["features_518"] - data["features_224"]).abs().max() > 1e-2
    other = load_dinov2_torch(published, "cpu", 2)(data["images_uint8"])
    assert (other["features"] - data["features_224"]).abs().max() > 1e-2


def test_pil_and_torch_differ(published: Path) -> None:
    """PIL rounds to whole numbers and clips; its features are near torch's, not equal."""
    by_torch, by_pil = load_dinov2_torch(published, "cpu", HEADS), load_dinov2_pil(published, "cpu", HEADS)
    batch = golden("dinov2_tiny")["images_uint8"]
    gap = (by_torch(batch)["features"] - by_pil(batch)["features"]).abs().max()
    assert 1e-4 < gap < 0.1


def test_resizing() -> None:
    """PIL rounds and clips after each of its two passes; else both are the same convolution."""
    whole = resize_pil(images())
    assert whole.shape == (3, 3, 224, 224) and whole.dtype == torch.float32
    assert torch.equal(whole, whole.round()) and whole.min() >= 0 and whole.max() <= 255
    free = resize_torch(images())
    assert free.min() < -1 and free.max() > 256  # overshoot is kept
    middle = images() // 3 + 80  # so that nothing overshoots
    assert (resize_torch(middle) - resize_pil(middle)).abs().max() <= 1.5
    for resize in (resize_torch, resize_pil):
        flat = resize(torch.full((1, 3, 512, 512), 77, dtype=torch.uint8))
        assert (flat - 77).abs().max() <= 1e-4
        assert torch.equal(resize(images(224)), images(224).float())
    # Antialiased: one-pixel stripes become gray.
    stripes = torch.zeros(1, 3, 448, 448, dtype=torch.uint8)
    stripes[..., ::2] = 200
    for resize in (resize_torch, resize_pil):
        assert (resize(stripes)[..., 10:-10] - 100).abs().max() < 3


def test_channels_are_normalised_apart() -> None:
    x = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None] * 255
    assert Normalize()(x).abs().max() <= 1e-6
    y = (torch.tensor([0.485, 0.456, 0.406]) + torch.tensor([0.229, 0.224, 0.225]))[None, :, None, None] * 255
    assert (Normalize()(y) - 1).abs().max() <= 1e-5


@pytest.mark.parametrize("load", [load_dinov2_torch, load_dinov2_pil])
def test_rows_do_not_depend_on_the_batch(load: Callable[..., Extract], tmp_path: Path) -> None:
    extract = load(write_dinov2(tmp_path / "dinov2.pth"), "cpu")
    together = extract(images())["features"]
    assert together.shape == (3, 64)
    assert (together[0] - together[1]).abs().max() > 1e-2
    for row in range(3):
        alone = extract(images()[row : row + 1])["features"]
        assert (alone - together[row : row + 1]).abs().max() <= 1e-5


def test_size_is_read_off_the_file(tmp_path: Path) -> None:
    network = build_dinov2(write_dinov2(tmp_path / "other.pth", width=128, depth=3))
    assert len(network.blocks) == 3 and network.blocks[0].attn.num_heads == 2  # type: ignore[arg-type,index]  # timm is untyped
    assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 128)


def test_safetensors_of_the_same_tensors(tmp_path: Path) -> None:
    save_file(dinov2_weights(), tmp_path / "dinov2.safetensors")
    found = load_dinov2_torch(tmp_path / "dinov2.safetensors", "cpu")(images())["features"]
    expected = load_dinov2_torch(write_dinov2(tmp_path / "dinov2.pth"), "cpu")(images())["features"]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "patch_embed.proj.weight",
            None,
            r"'patch_embed.proj.weight' is missing in the file, \[any, 3, any, any\]",
        ),
        (
            "pos_embed",
            torch.zeros(1, 1370, 32),
            r"'pos_embed' is \[1, 1370, 32\] in the file, \[1, any, 64\]",
        ),
        ("pos_embed", torch.zeros(1, 1371, 64), "1371 positions and patches of 14 pixels"),
        ("patch_embed.proj.weight", torch.zeros(64, 3, 15, 15), "1370 positions and patches of 15 pixels"),
        ("patch_embed.proj.weight", torch.zeros(64, 3, 0, 0), "1370 positions and patches of 0 pixels"),
        ("blocks.0.mlp.fc1.weight", None, "'blocks.0.mlp.fc1.weight' is missing"),  # ViT-g has another MLP
        ("blocks.1.ls2.gamma", None, r"'blocks.1.ls2.gamma' is missing in the file, \[64\]"),
        (
            "register_tokens",
            torch.zeros(1, 4, 64),
            r"'register_tokens' is \[1, 4, 64\] .* missing in the network",
        ),
        ("norm.bias", torch.zeros(63), r"'norm.bias' is \[63\] .* \[64\] floating point in the network"),
    ],
)
def test_other_networks_are_refused(name: str, value: Tensor | None, told: str, tmp_path: Path) -> None:
    weights = dinov2_weights()
    if value is None:
        del weights[name]
    else:
        weights[name] = value
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"other.pth'.*{told}.*erk-bench fetch"):
        load_dinov2_torch(tmp_path / "other.pth", "cpu")


@pytest.mark.parametrize("num_heads", [None, 0, -1, 5])
def test_heads_must_divide_the_width(published: Path, num_heads: int | None) -> None:
    with pytest.raises(
        UserError, match=f"{num_heads or 0} heads do not divide the 48 channels.*give num_heads"
    ):
        load_dinov2_torch(published, "cpu", num_heads)
