"""EDM2 networks with other heads, pickle protocols, number types and arguments, against published outputs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from erk_bench.networks.checkpoint import build_denoiser, convert, read_checkpoint
from erk_bench.networks.denoiser import EDMPreconditioned
from erk_bench.networks.edm2 import EDM2Network, MPBlock
from erk_bench.networks.vae import LatentScaling
from tests.conftest import DATA, golden, golden_facts, raw_edm2

FACTS = golden_facts("edm2_more_nets")
NAMES = sorted(FACTS)
SIGMAS = ("0.002", "0.05", "0.5", "2", "10", "80")


def tolerance(name: str) -> float:
    return 2e-5 if "288" in name else 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pickles as files."""
    made = tmp_path_factory.mktemp("pickles")
    with np.load(DATA / "edm2_more_pickles.npz") as archive:
        for name in archive:
            (made / name).write_bytes(archive[name].tobytes())
    return made


@cache
def network(path: Path) -> EDMPreconditioned:
    return build_denoiser(read_checkpoint(path))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def noisy(name: str, sigma: float | torch.Tensor) -> torch.Tensor:
    data = golden("edm2_more_denoiser")
    return data[f"{name}.clean"] + sigma * data[f"{name}.noise"]


def test_outputs_are_published(name: str, folder: Path) -> None:
    net, data = network(folder / f"{name}.pkl"), golden("edm2_more_denoiser")
    labels = data.get(f"{name}.labels")
    for sigma in SIGMAS:
        denoised = net(noisy(name, float(sigma)), float(sigma), labels)
        assert denoised.dtype == torch.float32
        assert (denoised - data[f"{name}.sigma{sigma}.D"]).abs().max() < tolerance(name), sigma
    levels = data[f"{name}.sigma_vec"]
    denoised = net(noisy(name, levels.reshape(-1, 1, 1, 1)), levels, labels)
    assert (denoised - data[f"{name}.vec.D"]).abs().max() < tolerance(name)
    logvar = raw_edm2(net).logvar(torch.tensor([float(sigma) for sigma in SIGMAS]))
    assert (logvar.flatten() - data[f"{name}.logvar"]).abs().max() < 1e-5


def test_number_types_stay_until_weights_are_folded(name: str, folder: Path) -> None:
    """Casting to float32 first gives the outputs that the published program gives when it does so."""
    checkpoint = read_checkpoint(folder / f"{name}.pkl")
    assert {str(tensor.dtype) for tensor in checkpoint.weights.values()} == {FACTS[name]["dtype"]}
    wide = {key: tensor.float() for key, tensor in checkpoint.weights.items()}
    net = EDMPreconditioned(EDM2Network(**checkpoint.init))
    net.network.load_state_dict(wide)
    data = golden("edm2_more_denoiser")
    denoised = net.fold()(noisy(name, 2.0), 2.0, data.get(f"{name}.labels"))
    assert (denoised - data[f"{name}.cast32.sigma2.D"]).abs().max() < tolerance(name)


def test_heads_and_arguments_are_published(name: str, folder: Path) -> None:
    facts, checkpoint = FACTS[name], read_checkpoint(folder / f"{name}.pkl")
    order = ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data", "logvar_channels")
    assert checkpoint.init == {**dict(zip(order, facts["args"], strict=False)), **facts["kwargs"]}
    assert checkpoint.encoder == facts["encoder"]
    net = network(folder / f"{name}.pkl")
    heads = {key: block.num_heads for key, block in net.network.named_modules() if isinstance(block, MPBlock)}
    assert {key: heads[key] for key in facts["heads"]} == facts["heads"]
    assert not any(count for key, count in heads.items() if key not in facts["heads"])
    assert sum(parameter.numel() for parameter in net.parameters()) == facts["parameters"]


def test_conversion_keeps_the_outputs_bit_by_bit(name: str, folder: Path, tmp_path: Path) -> None:
    convert(folder / f"{name}.pkl", tmp_path / "net.safetensors")
    again = build_denoiser(read_checkpoint(tmp_path / "net.safetensors"))
    x, labels = noisy(name, 2.0), golden("edm2_more_denoiser").get(f"{name}.labels")
    assert torch.equal(again(x, 2.0, labels), network(folder / f"{name}.pkl")(x, 2.0, labels))


@pytest.mark.parametrize("vae", [name for name in NAMES if "vae" in name])
def test_latents_become_the_decoders_inputs(vae: str) -> None:
    data = golden("edm2_more_denoiser")
    made = LatentScaling()(data[f"{vae}.latents"])
    assert (made - data[f"{vae}.decoder_input"]).abs().max() < 1e-5
