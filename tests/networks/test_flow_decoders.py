"""Decoders of diffusion transformers: bytes and latents as the published programs make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.commands.compose import run_spec
from erk_bench.networks.decoders import (
    DECODERS,
    latent_statistics,
    rgb_rounded,
    rgb_saved,
    rgb_to_uint8,
    rgb_truncated,
    scaled,
)
from erk_bench.networks.presets import preset_files, read_preset
from erk_bench.networks.sizes import SIZES
from erk_bench.networks.vae import load_vae
from erk_bench.runs.checks import check_images
from erk_bench.runs.loaded import Shape, decoder_row
from erk_bench.spec import ModelSpec, NetworkSpec
from tests.assets import write_vae
from tests.conftest import golden
from tests.flow_golden import FOLDER, far, flow_golden


@pytest.mark.parametrize(
    ("program", "to_uint8"),
    [
        ("sit_dit_ddp", rgb_to_uint8), ("lightningdit", rgb_to_uint8), ("repa", rgb_truncated),
        ("jit", rgb_rounded), ("save_image", rgb_saved),
    ],
)  # fmt: skip
def test_bytes_are_the_programs(program: str, to_uint8: Callable[[Tensor], Tensor]) -> None:
    data = {key.removeprefix("pixels."): value for key, value in golden("flow/pixels").items()}
    found = to_uint8(data["decoder_output"])
    assert torch.equal(found.permute(0, 2, 3, 1), data[program])


def identity(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize("program", ["dit_a", "repa_a"])
def test_latents_are_divided_by_the_published_scale(program: str) -> None:
    (std,) = read_preset(preset_files()["dit-xl-2"])["latent_std"]
    assert std == pytest.approx(1 / 0.18215, rel=1e-15)
    data = flow_golden(program)
    wanted = data["latent.decoder_input"]
    outs = [value for name, value in data.items() if name.startswith("sample.") and name.endswith(".out")]
    outs.append(data["sample.noise"])
    assert min(far(scaled(identity, (), (std,))(x).double(), wanted.double()) for x in outs) < 1e-5


@pytest.mark.parametrize("multiplier", [1.0, 0.18215])
def test_latents_of_lightningdit(multiplier: float) -> None:
    data = flow_golden("lightningdit_a")
    wanted = data[f"latent.multiplier{multiplier:g}.decoder_input"]
    mean, std = latent_statistics(FOLDER / "lightningdit_a_latents_stats.pt", multiplier)
    assert len(mean) == len(std) == wanted.shape[1]
    outs = [value for name, value in data.items() if name.startswith("sample.") and name.endswith(".out")]
    assert min(far(scaled(identity, mean, std)(x), wanted) for x in [*outs, data["sample.noise"]]) < 1e-5


def test_other_statistics_are_refused() -> None:
    with pytest.raises(UserError, match="expected the tensors mean and std"):
        latent_statistics(FOLDER / "sit_small.safetensors")


def test_the_plain_autoencoder_takes_its_own_latents(tmp_path: Path) -> None:
    folder = write_vae(tmp_path / "vae")
    files = folder / "config.json", folder / "diffusion_pytorch_model.safetensors"
    latents = torch.randn(3, 4, 4, 4)
    raw = load_vae(*files, "cpu", to_uint8=lambda y: y)(latents)
    assert raw.dtype == torch.float32 and raw.shape[:2] == (3, 3) and raw.min() < 0
    for name, to_uint8 in (("sd_vae_dit", rgb_to_uint8), ("sd_vae_repa", rgb_truncated)):
        load = DECODERS[name].load
        assert load is not None
        decode = load(files[1], files[0], torch.device("cpu"), torch.float32, 2)
        assert (decode(latents).int() - to_uint8(raw).int()).abs().max() <= 1


def model(decoder: str, **more: Any) -> ModelSpec:
    weights = NetworkSpec(path="p", sha256="a" * 64)
    return ModelSpec(name="m", weights=weights, decoder=decoder, **more)


def test_what_is_missing_is_told() -> None:
    with pytest.raises(UserError, match=r"'va_vae': the network of VA-VAE .* model.decoder=FILE.py:NAME"):
        decoder_row(model("va_vae"), Shape(32, 16, 1000), torch.device("cpu"))
    with pytest.raises(
        UserError, match="model.latent_std has 2 numbers; decoder 'sd_vae_dit' takes 4 channels"
    ):
        decoder_row(model("sd_vae_dit", latent_std=(1.0, 2.0)), Shape(4, 32, 1000), torch.device("cpu"))


PRESETS = [
    name for name in preset_files() if name.partition("-")[0] in ("dit", "sit", "repa", "lightningdit", "jit")
]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_consistent(name: str) -> None:
    """Their architecture is that of the family, its states are the decoder's, and a run composes."""
    spec = run_spec([f"model={name}", "coordinates=native"], fetch=False)
    weights, size = spec.model.weights, SIZES[str(spec.model.weights.architecture)]
    assert size.arguments["family"] == weights.family and spec.guidance.null_class
    assert DECODERS[spec.model.decoder].channels == size.img_channels
    assert spec.schedule.name == "flow" and spec.guidance.name == "cfg"
    assert spec.guidance.weight == read_preset(preset_files()[name])["guidance_weight"] != 1
    if DECODERS[spec.model.decoder].missing:
        with pytest.raises(UserError, match="VA-VAE"):
            check_images(spec, Assets.from_environment())


def test_there_are_presets_of_every_family() -> None:
    assert len(PRESETS) == 12
