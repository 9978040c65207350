"""Decoders from network space to uint8 images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.base.files import file_sha256
from erk_bench.networks.decoders import DECODERS, rgb_to_uint8
from erk_bench.runs.device import Place
from erk_bench.runs.loaded import Shape, decoder
from erk_bench.runs.sample_block import sample_block
from erk_bench.spec import ModelSpec, NetworkSpec, RunSpec, WeightsSpec
from tests.assets import write_vae
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


def test_a_grey_model_has_a_decoder(small_run: Callable[..., RunSpec]) -> None:
    """Greys are as one channel of a colour model; a decoder of three is refused, and the fitting named."""
    spec = small_run("model.name=mine", "model.decoder=grey", "seeds=0-3")
    images = sample_block(spec, range(4), Place.of(spec)).host().images
    assert images.dtype == torch.uint8 and images.shape == (4, 1, 8, 8)
    x = torch.linspace(-1.2, 1.2, 256).reshape(1, 1, 16, 16)
    decode = DECODERS["grey"].decode
    assert decode is not None and torch.equal(decode(x), rgb_to_uint8(x.repeat(1, 3, 1, 1))[:, :1])
    rgb = small_run("model.decoder=rgb")
    with pytest.raises(
        UserError, match="takes 3 channels, the model has 1; set model.decoder to .*: grey or"
    ):
        sample_block(rgb, range(4), Place.of(rgb))


def test_rgb_decode_of_other_dtypes() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 3.0])
    expected = torch.tensor([0, 0, 128, 191, 255, 255], dtype=torch.uint8)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        assert torch.equal(rgb_to_uint8(x.to(dtype)), expected)


def test_decoder_is_the_one_that_the_run_is_named_after(tmp_path: Path) -> None:
    """Weights and config.json of the VAE change images, so both are checked as the networks' weights are."""
    folder = write_vae(tmp_path)
    paths = {"vae": folder / "diffusion_pytorch_model.safetensors", "vae_config": folder / "config.json"}
    files = {name: WeightsSpec(path=str(path), sha256=file_sha256(path)) for name, path in paths.items()}
    weights = NetworkSpec(path="none", sha256="0" * 64)
    model = ModelSpec(name="m", weights=weights, decoder="sd_vae", **files)
    assets, cpu, shape = Assets.from_environment(), torch.device("cpu"), Shape(4, 8, 0)
    assert decoder(model, shape, cpu, assets)(torch.zeros(2, 4, 8, 8)).shape == (2, 3, 16, 16)
    for name in files:
        other = WeightsSpec(path=files[name].path, sha256="a" * 64)
        with pytest.raises(UserError, match=f"has sha256 .*, not {'a' * 64}; the file changed"):
            decoder(dataclasses.replace(model, **{name: other}), shape, cpu, assets)
    with pytest.raises(UserError, match="decoder 'sd_vae' needs weights; set model.vae.path=FILE"):
        decoder(dataclasses.replace(model, vae=None), shape, cpu, assets)
