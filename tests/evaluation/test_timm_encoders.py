"""The encoders of FDr6 and CMMD: published numbers of small networks of the same families."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.footprint import footprint
from erk_bench.evaluation import timm_encoders
from erk_bench.evaluation.composites import COMPOSITES
from erk_bench.evaluation.detectors import DETECTORS, sketch_of
from erk_bench.evaluation.metrics import METRICS
from erk_bench.evaluation.timm_encoders import ENCODERS, load, normalized
from tests.conftest import DATA, golden, golden_facts

PUBLISHED = {
    "fdr6_convnext": "convnext", "fdr6_dinov2": "dinov2_cls", "fdr6_mae": "mae_cls",
    "fdr6_siglip": "siglip_cls", "fdr6_clip": "clip_cls",
}  # fmt: skip


def images(side: int) -> Tensor:
    """uint8 NCHW."""
    if side == 64:
        return golden("fdr6_tiny")["images_64"].permute(0, 3, 1, 2)
    files = sorted(DATA.glob("fdr6_image256_*.png"))
    return torch.from_numpy(np.stack([np.array(Image.open(file)) for file in files])).permute(0, 3, 1, 2)


def tiny(name: str) -> dict[str, object]:
    overrides: dict[str, object] = golden_facts("fdr6")["extractors"][PUBLISHED[name]]["tiny_overrides"]
    return overrides


def weights_of(name: str, path: Path) -> Path:
    prefix = f"{PUBLISHED[name]}.state."
    state = {
        key.removeprefix(prefix): value.float().contiguous()
        for key, value in golden("fdr6_tiny").items()
        if key.startswith(prefix)
    }
    save_file(state, path)
    return path


@pytest.mark.parametrize("side", [64, 256])
@pytest.mark.parametrize("name", PUBLISHED)
def test_features_are_the_published_ones(name: str, side: int, tmp_path: Path) -> None:
    found = load(name, weights_of(name, tmp_path / "w.safetensors"), "cpu", **tiny(name))(images(side))
    expected = golden("fdr6_tiny")[f"{PUBLISHED[name]}.in{side}.features"]
    assert torch.allclose(found["features"], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("side", [64, 256])
@pytest.mark.parametrize("name", PUBLISHED)
def test_images_go_in_as_published(name: str, side: int) -> None:
    encoder = ENCODERS[name]
    mean, std = (torch.tensor(values)[:, None, None] for values in encoder.norm)
    x = normalized(images(side), encoder, mean, std)
    wanted = golden("fdr6_tiny")[f"{PUBLISHED[name]}.in{side}.pre_every8"]
    assert torch.allclose(x[:, :, ::8, ::8], wanted, rtol=0, atol=1e-5)
    facts = golden("fdr6_tiny")[f"{PUBLISHED[name]}.in{side}.pre_mean_std_min_max"]
    assert torch.allclose(x.amin((2, 3)), facts[..., 2], atol=1e-5)
    assert torch.allclose(x.amax((2, 3)), facts[..., 3], atol=1e-5)


def test_the_catalogue_is_the_published_one() -> None:
    """Networks, sizes, widths, and the constants of the mean."""
    published = golden_facts("fdr6")["extractors"]
    for name, theirs in PUBLISHED.items():
        facts, encoder = published[theirs], ENCODERS[name]
        assert (encoder.model, encoder.side) == (facts["model"], facts["input_size"])
        assert DETECTORS[name].dim == facts["feat_dim"]
        assert (
            DETECTORS[name].weights
            == f"huggingface:{facts['timm_pretrained_cfg']['hf_hub_id']}/resolve/main/model.safetensors"
        )
    parts = {part.metric: part.constant for part in COMPOSITES["fdr6"].parts}
    ours = {"inception": "inception", **{theirs: name for name, theirs in PUBLISHED.items()}}
    assert parts == {f"fd@{ours[key]}": facts["norm_const"] for key, facts in published.items()}
    assert METRICS["fdr6"].title == "FDr6" and METRICS["fdr6"].lower


SMALL_CLIP = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 16}


def test_clips_embedding_has_length_one(tmp_path: Path) -> None:
    """Of its own activation, without antialiasing, through the projection of the class token."""
    torch.manual_seed(0)
    network = timm.create_model(ENCODERS["clip336"].model, **SMALL_CLIP).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    found = load("clip336", tmp_path / "w.safetensors", "cpu", **SMALL_CLIP)(images(64))["features"]
    x = torch.nn.functional.interpolate(images(64).float(), size=(336, 336), mode="bicubic")
    mean, std = (torch.tensor(values)[:, None, None] for values in timm_encoders.CLIP)
    with torch.no_grad():
        expected = network((x / 255 - mean) / std)
    assert "QuickGELU" in repr(network.blocks[0].mlp.act)
    assert torch.allclose(found, expected / expected.norm(dim=1, keepdim=True), atol=1e-5)
    assert torch.allclose(found.norm(dim=1), torch.ones(4), atol=1e-6)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = weights_of("fdr6_mae", tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="does not fit timm's vit_large_patch14_clip_224.openai"):
        load("fdr6_clip", path, "cpu", **tiny("fdr6_clip"))


def test_the_head_of_a_classifier_does_not_matter(tmp_path: Path) -> None:
    """timm's file of ConvNeXt has one."""
    path = weights_of("fdr6_convnext", tmp_path / "w.safetensors")
    from safetensors.torch import load_file

    with_head = {**load_file(path), "head.fc.weight": torch.zeros(10, 24), "head.fc.bias": torch.zeros(10)}
    save_file(with_head, tmp_path / "h.safetensors")
    plain, other = (
        load("fdr6_convnext", tmp_path / f"{name}.safetensors", "cpu", **tiny("fdr6_convnext"))(images(64))
        for name in ("w", "h")
    )
    assert torch.equal(plain["features"], other["features"])


def test_plan_counts_them() -> None:
    """ViT-L of 19 x 19 tokens: about twice the parameters times the tokens, and attention besides."""
    sketch = sketch_of("fdr6_clip")
    assert sketch is not None
    found = footprint(sketch, torch.empty(1, 3, 256, 256, dtype=torch.uint8, device="meta"))
    assert 2 * 303e6 * 362 < found.flops < 2.4 * 303e6 * 362
