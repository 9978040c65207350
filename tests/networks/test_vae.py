"""The autoencoder: EDM2's conversions, diffusers' numbers, both generations of names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.networks.vae import Decode, LatentScaling, load_vae, vae_to_uint8
from tests.assets import VAE_CONFIG, VAE_FACTOR, write_vae
from tests.conftest import golden

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vae(tmp_path_factory.mktemp("vae"))


def load(folder: Path, dtype: torch.dtype = torch.float32, batch: int = 8) -> Decode:
    return load_vae(folder / "config.json", folder / WEIGHTS, "cpu", dtype, batch)


def latents(count: int = 5) -> Tensor:
    return 0.5 * torch.randn(count, 4, 6, 8, generator=torch.Generator().manual_seed(7))


def test_scaling_is_published() -> None:
    data = golden("edm2_encoders")
    found = LatentScaling()(data["vae.latents"])
    assert torch.equal(found, data["vae.decoder_input"])
    # The published constants of the encoder undo it.
    scale, bias = data["vae.scale"][:, None, None], data["vae.bias"][:, None, None]
    assert (found * scale + bias - data["vae.latents"]).abs().max() <= 1e-6
    assert LatentScaling()(data["vae.latents"].double()).dtype == torch.float32


def test_images_are_published() -> None:
    """Golden images of a stand-in for the network: its first three latent channels over 8."""
    data = golden("edm2_encoders")
    y = data["vae.decoder_input"][:, :3] / 8
    assert y.min() < 0 and y.max() > 1
    found = vae_to_uint8(y)
    assert found.dtype == torch.uint8
    assert torch.equal(found, data["vae.decoded_u8_with_stub"])


def test_images_are_truncated() -> None:
    y = torch.tensor([-0.1, 0.0, 0.5, 0.9999, 1.0, 2.0])
    assert vae_to_uint8(y).tolist() == [0, 0, 127, 254, 255, 255]
    assert vae_to_uint8(y.half())[2] == 127


@pytest.mark.parametrize("old_names", [True, False])
def test_decoding_agrees_with_diffusers(old_names: bool, tmp_path: Path) -> None:
    folder = write_vae(tmp_path, old_names)
    assert any(".query." in name for name in load_file(folder / WEIGHTS)) == old_names
    theirs = AutoencoderKL.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    x = latents()
    with torch.no_grad():
        expected = vae_to_uint8(theirs.decode(LatentScaling()(x)).sample)
    found = load(folder)(x)
    assert found.shape == (5, 3, 6 * VAE_FACTOR, 8 * VAE_FACTOR) and found.dtype == torch.uint8
    assert torch.equal(found, expected)
    assert found.float().std() > 20 and len(found.unique()) > 100  # images, not one colour
    assert (found[0] != found[1]).any()


def test_attention_weights_matter(folder: Path, tmp_path: Path) -> None:
    """Else a file whose old names were dropped would decode as well."""
    weights = load_file(folder / WEIGHTS)
    names = [f"decoder.mid_block.attentions.0.{old}.weight" for old in ("query", "key", "value", "proj_attn")]
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    for name in names:
        changed = weights | {name: weights[name].flip(0)}
        save_file(changed, tmp_path / WEIGHTS)
        assert (load(tmp_path)(latents()) != load(folder)(latents())).any(), name


def test_images_do_not_depend_on_the_batch(folder: Path) -> None:
    """A difference of float32 rounding may cross a whole number: one level at most, rarely."""
    whole = load(folder)(latents())
    for batch in (1, 2, 5):
        gap = (load(folder, batch=batch)(latents()).int() - whole.int()).abs()
        assert gap.max() <= 1 and (gap > 0).float().mean() <= 1e-3
    alone = load(folder)(latents()[2:3]).int()
    assert (alone - whole[2:3].int()).abs().max() <= 1


def test_batches_are_of_the_size_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    decode = AutoencoderKL.decode

    def recording(self: AutoencoderKL, z: Tensor, **options: Any) -> Any:
        sizes.append(len(z))
        return decode(self, z, **options)

    monkeypatch.setattr(AutoencoderKL, "decode", recording)
    load(folder, batch=2)(latents())
    assert sizes == [2, 2, 1]


def test_other_precisions(folder: Path) -> None:
    exact, rough = load(folder)(latents()), load(folder, torch.bfloat16)(latents())
    gap = (exact.int() - rough.int()).abs()
    assert 0 < gap.float().mean() < 5
    double = load(folder, torch.float64)(latents()).int()
    assert (double - exact.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (torch.zeros(2, 3, 8, 8), r"got torch.float32 \[2, 3, 8, 8\]"),
        (torch.zeros(4, 8, 8), r"got torch.float32 \[4, 8, 8\]"),
        (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), r"got torch.uint8 \[2, 4, 8, 8\]"),
    ],
)
def test_other_latents_are_refused(bad: Tensor, told: str, folder: Path) -> None:
    with pytest.raises(UserError, match=r"latents \[B, 4, h, w\].*" + told):
        load(folder)(bad)


def test_what_is_not_finite_is_refused(folder: Path) -> None:
    x = latents()
    x[3, 1, 2, 2] = float("nan")
    with pytest.raises(UserError, match="output in torch.float32 is not finite"):
        load(folder)(x)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"_class_name": "AutoencoderTiny"}, "describes 'AutoencoderTiny', not 'AutoencoderKL'"),
        ({"latent_channels": 16}, "has latent_channels 16; the decoder needs 4"),
        ({"out_channels": None}, "has out_channels None; the decoder needs 3"),
        ({"up_block_types": ["NoSuchBlock", "UpDecoderBlock2D"]}, "cannot build AutoencoderKL.*NoSuchBlock"),
        ({"norm_num_groups": 3}, "cannot build AutoencoderKL"),
        ({"block_out_channels": [8, 16]}, r"tensor '.*' is \[8.*\] .*in the file, \[16.*\] .*in the network"),
    ],
)
def test_other_configs_are_refused(change: dict[str, Any], told: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(VAE_CONFIG | change))
    with pytest.raises(UserError, match=told):
        load_vae(tmp_path / "config.json", folder / WEIGHTS, "cpu")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\0", "{}"])
def test_unreadable_configs_are_refused(text: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        UserError, match="config.json'.*(as JSON|not 'AutoencoderKL').*sd-vae-ft-mse|erk-bench fetch"
    ):
        load_vae(tmp_path / "config.json", folder / WEIGHTS, "cpu")
    with pytest.raises(UserError, match="cannot read '.*none.json'"):
        load_vae(tmp_path / "none.json", folder / WEIGHTS, "cpu")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "post_quant_conv.weight",
            None,
            r"is missing in the file, \[4, 4, 1, 1\] .*in the network \(1 tensors",
        ),
        (
            "decoder.mid_block.attentions.0.to_q.weight",
            "old",
            r"is missing in the file, \[8, 8\] .*in the network",
        ),
        (
            "decoder.conv_in.bias",
            torch.zeros(9),
            r"is \[9\] .*in the file, \[8\] .*in the network \(1 tensors",
        ),
        ("extra.attentions", torch.zeros(1), r"is \[1\] .*in the file, missing in the network \(1 tensors"),
        ("x", torch.zeros(1), r"is \[1\] .*in the file, missing in the network \(1 tensors"),
    ],
)
def test_other_weights_are_refused(
    name: str, value: Tensor | str | None, told: str, folder: Path, tmp_path: Path
) -> None:
    weights = load_file(folder / WEIGHTS)
    if isinstance(value, Tensor):
        weights[name] = value
    else:
        del weights[name.replace("to_q", "query")]
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=f"tensor '{name}' {told}"):
        load_vae(folder / "config.json", tmp_path / WEIGHTS, "cpu")


def test_damaged_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    path = tmp_path / WEIGHTS
    for damaged in (data[:-100], data[:50], b"", b"<html>404</html>"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="no readable safetensors file.*erk-bench fetch"):
            load_vae(folder / "config.json", path, "cpu")
    with pytest.raises(UserError, match="no weight file at.*none.safetensors"):
        load_vae(folder / "config.json", tmp_path / "none.safetensors", "cpu")
    with pytest.raises(UserError, match="model.bin' are not .safetensors"):
        load_vae(folder / "config.json", tmp_path / "model.bin", "cpu")


@pytest.mark.parametrize(("dtype", "batch"), [(torch.float32, 0), (torch.int32, 8)])
def test_other_ways_to_decode_are_refused(dtype: torch.dtype, batch: int, folder: Path) -> None:
    with pytest.raises(UserError, match=f"batches of {batch} in {dtype}"):
        load(folder, dtype, batch)
