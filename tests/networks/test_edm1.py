"""The EDM1 denoisers against the published program's outputs (tests/data/edm1_*) and their own promises."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import erk_bench
from erk_bench.base.errors import UserError
from erk_bench.networks.checkpoint import build_denoiser, convert, make_network, read_checkpoint
from erk_bench.networks.edm1 import EDM1Network
from erk_bench.networks.edm1_layers import UNetBlock
from erk_bench.networks.sizes import SIZES
from tests.conftest import golden, golden_facts, golden_net, golden_path

LETTERS = "fghi"
SIGMAS = ("0.002", "0.05", "0.5", "2", "10", "80")
TOLERANCE = 5e-6  # measured 2.9e-6, on outputs of size 1


def data(key: str) -> Tensor:
    return golden("edm1_denoiser")[key]


def noisy(letter: str, sigma: float | Tensor) -> Tensor:
    level = torch.as_tensor(sigma).reshape(-1, 1, 1, 1)
    return data(f"{letter}.clean") + level * data(f"{letter}.noise")


def labels_of(letter: str) -> Tensor | None:
    return golden("edm1_denoiser").get(f"{letter}.labels")


def check(letter: str, denoised: Tensor, key: str) -> None:
    assert denoised.dtype == torch.float32
    assert (denoised - data(f"{letter}.{key}.D")).abs().max() < TOLERANCE


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("letter", LETTERS)
def test_denoised_is_published(letter: str, sigma: str) -> None:
    level = float(sigma)
    check(letter, golden_net(letter)(noisy(letter, level), level, labels_of(letter)), f"sigma{sigma}")


@pytest.mark.parametrize("letter", LETTERS)
def test_one_noise_level_per_sample_is_published(letter: str) -> None:
    levels = data(f"{letter}.sigma_vec")
    check(letter, golden_net(letter)(noisy(letter, levels), levels, labels_of(letter)), "vec")


@pytest.mark.parametrize("letter", "fgi")
def test_no_label_is_an_all_zero_row(letter: str) -> None:
    check(letter, golden_net(letter)(noisy(letter, 2.0), 2.0, None), "nolabel.sigma2")


@pytest.mark.parametrize("letter", "hi")
def test_augmentation_labels_are_published(letter: str) -> None:
    augment = data(f"{letter}.augment_labels")
    denoised = golden_net(letter)(noisy(letter, 2.0), 2.0, labels_of(letter), augment_labels=augment)
    check(letter, denoised, "augmented.sigma2")
    plain = golden_net(letter)(noisy(letter, 2.0), 2.0, labels_of(letter))
    assert (plain - denoised).abs().max() > 1e-3


@pytest.mark.parametrize("letter", LETTERS)
def test_every_layer_matches_its_fingerprint(letter: str) -> None:
    facts = dict(golden_facts("edm1_fingerprints")[letter])
    facts.pop("map_noise")  # a function here, for the positional embedding
    net = build_denoiser(read_checkpoint(golden_path(letter)))
    assert isinstance(net.network, EDM1Network)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, arguments, output: seen.setdefault(name, output)

    for name in facts:
        net.network.model.get_submodule(name).register_forward_hook(keep(name))
    net(noisy(letter, 2.0), 2.0, labels_of(letter))
    assert set(seen) == set(facts)
    for name, expected in facts.items():
        out = seen[name]
        assert list(out.shape) == expected["shape"], name
        assert out.mean().item() == pytest.approx(expected["mean"], abs=1e-5), name
        assert out.flatten()[:8].tolist() == pytest.approx(expected["first8"], abs=1e-5), name


@pytest.mark.parametrize("name", golden_facts("architectures_edm1"))
def test_full_size_architecture(name: str) -> None:
    """Names, shapes, parameters and attention heads of the published networks, without their files."""
    facts = golden_facts("architectures_edm1")[name]
    with torch.device("meta"):
        net, from_size = EDM1Network(**facts["constructor_kwargs"]), make_network(SIZES[name])
    state = {key: list(value.shape) for key, value in net.state_dict().items()}
    assert state == {key: list(value.shape) for key, value in from_size.state_dict().items()}
    assert len(state) == facts["num_state_dict_keys"]
    assert sum(value.numel() for value in net.parameters()) == facts["num_parameters"]
    if "state_dict" in facts:
        assert state == facts["state_dict"]
    blocks = {key: each.num_heads for key, each in net.named_modules() if isinstance(each, UNetBlock)}
    assert {key: heads for key, heads in blocks.items() if heads} == facts["attention_heads"]


def test_narrow_blocks_go_without_attention() -> None:
    """As published: below 64 channels ADM has no head, so no attention."""
    assert golden_facts("edm1_nets")["edm1_f_adm_cond.pkl"]["attention_heads"] == {}
    assert not any("qkv" in key for key in golden_net("f").state_dict())
    assert any("qkv" in key for key in golden_net("g").state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("letter", "gi")
def test_half_precision_is_close(letter: str, dtype: torch.dtype) -> None:
    net = build_denoiser(read_checkpoint(golden_path(letter)), compute_dtype=dtype)
    denoised = net(noisy(letter, 0.5), 0.5, labels_of(letter))
    assert denoised.dtype == torch.float32
    gap = (denoised - data(f"{letter}.sigma0.5.D")).abs().max()
    assert 0 < gap < (0.01 if dtype == torch.float16 else 0.08)


@pytest.mark.parametrize("letter", LETTERS)
def test_samples_do_not_depend_on_their_batch(letter: str) -> None:
    net, labels = golden_net(letter), labels_of(letter)
    together = net(noisy(letter, 0.5), 0.5, labels)
    for k in range(len(together)):
        own = None if labels is None else labels[k : k + 1]
        assert torch.allclose(together[k : k + 1], net(noisy(letter, 0.5)[k : k + 1], 0.5, own), atol=2e-6)


@pytest.mark.parametrize("letter", "gh")
def test_converted_is_the_same_network(letter: str, tmp_path: Path) -> None:
    made = convert(golden_path(letter), tmp_path / "net.safetensors")
    assert made.class_name == "EDMPrecond" and made.init["model_type"] in ("DhariwalUNet", "SongUNet")
    net = erk_bench.load_denoiser(tmp_path / "net.safetensors")
    x = noisy(letter, 2.0)
    assert torch.equal(net(x, 2.0, labels_of(letter)), golden_net(letter)(x, 2.0, labels_of(letter)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "ViT"}, "model_type is 'ViT'; known: DhariwalUNet, SongUNet"),
        ({"decoder_type": "skip"}, "decoder_type is 'skip'; published networks have: standard"),
        ({"encoder_type": "skip"}, "encoder_type is 'skip'"),
        ({"embedding_type": "learned"}, "embedding_type is 'learned'"),
        ({"model_channels": 12}, "checkpoint does not fit EDMPrecond"),
        ({"num_blocks": 2}, "checkpoint does not fit EDMPrecond: tensor"),
        ({"channel_mult": []}, "cannot build EDMPrecond"),
    ],
)
def test_files_that_do_not_fit(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(golden_path("h"))
    with pytest.raises(UserError, match=named):
        build_denoiser(dataclasses.replace(checkpoint, init={**checkpoint.init, **changes}))


def test_unknown_arguments_are_named() -> None:
    checkpoint = read_checkpoint(golden_path("h"))
    with pytest.raises(UserError, match="'channels_per_head'"):
        dataclasses.replace(checkpoint, init={**checkpoint.init, "channels_per_head": 8})
    with pytest.raises(UserError, match=r"'embeding_type'.*did you mean 'embedding_type'"):
        dataclasses.replace(checkpoint, init={**checkpoint.init, "embeding_type": "fourier"})


def test_a_missing_tensor_is_named() -> None:
    checkpoint = read_checkpoint(golden_path("f"))
    weights = dict(checkpoint.weights)
    del weights["model.out_norm.bias"]
    with pytest.raises(UserError, match=r"tensor 'model.out_norm.bias' is missing in the file"):
        build_denoiser(dataclasses.replace(checkpoint, weights=weights))
