"""Diffusion transformers and their wrappers give what the published programs print."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.networks.attention import by_products, fused
from erk_bench.networks.checkpoint import build_denoiser, make_network, read_checkpoint
from erk_bench.networks.compiled import CompiledDenoiser
from erk_bench.networks.families import FAMILIES
from erk_bench.networks.flow import FlowDenoiser
from erk_bench.networks.sizes import SIZES
from erk_bench.networks.transformer import DiffusionTransformer
from erk_bench.sampling.guidance import GUIDANCES
from erk_bench.sampling.guided import EVERYWHERE, guided, under_null_class
from erk_bench.sampling.sample import draw
from tests.conftest import golden_facts
from tests.flow_golden import FOLDER, NETWORKS, family, far, flow_golden, flow_net
from tests.pretend_gpu import PretendGpu


def level(name: str, point: str) -> Tensor | float:
    """The noise level of a golden point."""
    if point == "edm.vec":
        return flow_golden(name)["edm.sigma_vec"]
    if family(name) == "dit":
        return flow_golden(name)["sigmas"][int(point.removeprefix("edm.t"))].item()
    return float(point.removeprefix("edm.sigma"))


def points(name: str) -> list[str]:
    return [
        key.removesuffix(".D") for key in flow_golden(name) if key.startswith("edm.") and key[-2:] == ".D"
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_the_programs(name: str) -> None:
    data = flow_golden(name)
    with torch.inference_mode():
        assert far(flow_net(name).network(data["x"], data["t"], data["y"]), data["forward"]) < 2e-6
        wide = flow_net(name, torch.float64)
        found = wide.network(data["x"].double(), data["t"].double(), data["y"])
    # RMSNorm rounds to float32.
    assert far(found, data["forward_f64"]) < (3e-6 if wide.network.blocks[0].norm1.state_dict() else 1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_denoised_images_are_the_programs(name: str) -> None:
    data = flow_golden(name)
    assert len(points(name)) >= 4
    for point in points(name):
        x, sigma = data[f"{point}.x"], level(name, point)
        with torch.inference_mode():
            found = flow_net(name)(x, sigma, data["edm.y"])
            assert found.dtype == torch.float32 and far(found, data[f"{point}.D"]) < 2e-6
            if f"{point}.D_f64" not in data:
                continue
            found = flow_net(name, torch.float64)(x.double(), sigma, data["edm.y"])
        rounds = flow_net(name).network.rms_norm
        assert far(found, data[f"{point}.D_f64"]) < (3e-6 if rounds else 1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_guidance_is_the_programs(name: str) -> None:
    """Of DiT, SiT and LightningDiT the first three channels only; LightningDiT's from t = 0.11 on."""
    data, net = flow_golden(name), flow_net(name)
    keys = [key for key in data if ".D_cfg" in key]
    assert keys
    for key in keys:
        point, _, told = key.partition(".D_cfg")
        weight, _, start = told.partition(".from")
        interval = (0.0, (1 - float(start)) / float(start) if start else float("inf"))
        denoiser = guided(net, under_null_class(net), float(weight), interval)
        with torch.inference_mode():
            found = denoiser(data[f"{point}.x"], level(name, point), data["edm.y"])
        assert far(found, data[key]) < 1e-5


@pytest.mark.parametrize("method", [name for name, row in GUIDANCES.items() if row.role])
def test_every_method_of_guidance_leaves_the_other_channels(method: str) -> None:
    net = flow_net("sit_a")
    noise, labels = draw(range(2), net)
    x, row = noise * 2, GUIDANCES[method]
    denoiser = row.make(net, under_null_class(net), 0.6, EVERYWHERE, (2.0, 1.0))
    with torch.inference_mode():
        found, alone = denoiser(x, 2.0, labels), net(x, 2.0, labels)
        if row.memory is not None:
            found = denoiser(x, 2.0, labels)  # of the first evaluation
    assert torch.equal(found[:, 3:], alone[:, 3:])
    assert all(not torch.equal(found[:, channel], alone[:, channel]) for channel in range(3))


def test_four_programs_share_one_network() -> None:
    """With the same weights DiT, SiT, REPA and LightningDiT give the same bits."""
    data = flow_golden("sit_a")
    found = []
    for name in ("dit", "sit", "repa", "lightningdit"):
        net = build_denoiser(read_checkpoint(FOLDER / "sit_a.pt", name, {"num_heads": 2}))
        assert isinstance(net, FlowDenoiser)
        with torch.inference_mode():
            found.append(net.network(data["x"], data["t"], data["y"])[:, :4])
    assert all(torch.equal(each, found[0]) for each in found)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_level_for_all_is_one_level_each(name: str) -> None:
    net = flow_net(name)
    noise, labels = draw(range(3), net)
    assert labels is not None
    with torch.inference_mode():
        one = net(noise * 2, 2.0, labels)
        assert far(net(noise * 2, torch.full((3,), 2.0), labels), one) < 1e-6
        assert far(net(noise * 2, 2.0, labels.argmax(1)), one) == 0
        # No condition, an all-zero row and the class after the last are any class.
        free = net(noise * 2, 2.0)
        assert far(free, one) > 1e-3
        assert far(net(noise * 2, 2.0, torch.zeros_like(labels)), free) < 1e-6
        assert far(net(noise * 2, 2.0, torch.full((3,), net.num_classes)), free) < 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_arithmetic_around_the_network_is_that_of_x(name: str) -> None:
    net = flow_net(name)
    x = torch.randn(1, net.img_channels, net.img_resolution, net.img_resolution, dtype=torch.float64)
    with torch.inference_mode():
        assert net(x, 2.0).dtype == torch.float64
        assert net(x.half(), 2.0).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_is_near(name: str, dtype: torch.dtype) -> None:
    data, net = flow_golden(name), flow_net(name, dtype)
    assert net.network.t_embedder.weight.dtype == torch.float32
    point = points(name)[1]
    with torch.inference_mode():
        found = net(data[f"{point}.x"], level(name, point), data["edm.y"])
    assert 1e-7 < far(found, data[f"{point}.D"]) < 0.05


def test_attention_of_the_programs() -> None:
    """REPA samples by products; the others' kernels are fused, or give the same to rounding."""
    for name in NETWORKS:
        net = copy.deepcopy(flow_net(name))
        net.network.use_published_attention()
        assert (net.network.attention is by_products) == (name == "repa_a")
        assert (net.network.attention is fused) == (name not in ("repa_a", "jit_a"))
        data = flow_golden(name)
        with torch.inference_mode():
            assert far(net.network(data["x"], data["t"], data["y"]), data["forward"]) < 2e-6


@pytest.mark.parametrize("part", ["2", "1", "16", pytest.param("", marks=pytest.mark.slow)])
def test_published_sizes_have_the_published_numbers(part: str) -> None:
    names = {"DiT": "dit-{}", "SiT": "sit-{}", "REPA": "repa-sit-{}", "LightningDiT": "{}", "JiT": "{}"}
    counted = 0
    for program, sizes in golden_facts("flow/flow_golden")["sizes"].items():
        for size, expected in sizes.items():
            name = names[program].format(size.lower().replace("/", "-").replace(" ", "-"))
            if name not in SIZES or not name.endswith(f"-{part}" if part else ""):
                continue
            with torch.device("meta"):
                network = make_network(SIZES[name])
            made, counted = sum(each.numel() for each in network.parameters()), counted + 1
            projectors = 0
            if program == "REPA":  # three layers beside the network, of 768 outputs
                width = SIZES[name].arguments["hidden_size"]
                projectors = (width + 1) * 2048 + 2049 * 2048 + 2049 * 768
            assert made + projectors == expected["parameters"], name
    assert counted >= 2


def refusal(*arguments: Any, name: str = "sit_a") -> str:
    with pytest.raises(UserError) as error:
        flow_net(name)(*arguments)
    return str(error.value)


def test_what_does_not_fit_is_refused() -> None:
    x = torch.zeros(2, 4, 8, 8)
    assert "this network knows class numbers 0 to 9 and no text" in refusal(x, 1.0, ["a dog", "a cat"])
    assert "[32, 8, 8]; this network of SiT takes [4, 8, 8]" in refusal(torch.zeros(2, 32, 8, 8), 1.0)
    assert "[4, 16, 16]" in refusal(torch.zeros(2, 4, 16, 16), 1.0)
    assert "class numbers are 0 to 11" in refusal(x, 1.0, torch.tensor([0, 11]))


def test_a_network_of_an_unknown_family_is_not_made() -> None:
    with pytest.raises(ValueError, match="unknown family 'mit'"):
        DiffusionTransformer("mit", 8, 4, 10, 2, 32, 1, 2, 64)
    assert set(FAMILIES) == {"dit", "sit", "repa", "lightningdit", "jit"}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_do_not_wait(name: str, pretend_gpu: PretendGpu) -> None:
    file, options = NETWORKS[name]
    net = build_denoiser(read_checkpoint(FOLDER / file, family(name), options), "cuda")
    noise, labels = draw(range(2), net)
    assert labels is not None
    with torch.inference_mode():
        expected = flow_net(name)(noise * 2, 2.0, labels)
        x, condition = (noise * 2).to("cuda"), labels.to("cuda")
        net(x, 2.0, condition)  # constants are made once
        with pretend_gpu.watch() as waits:
            found = net(x, 2.0, condition)
            net(x, torch.full((2,), 2.0, device="cuda"), condition.argmax(dim=1))
            net(x, 2.0, None)
            net.network.use_published_attention()
            net(x, 2.0, condition)
    assert torch.equal(found.cpu(), expected)
    assert waits == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_traced_whole(name: str) -> None:
    """fullgraph: an operation that torch cannot trace is an error."""
    torch._dynamo.reset()
    net = flow_net(name)
    noise, labels = draw(range(2), net)
    compiled = CompiledDenoiser(net, "eager")
    with torch.inference_mode():
        assert far(compiled(noise, torch.tensor(2.0), labels), net(noise, torch.tensor(2.0), labels)) < 1e-6
        if name != "dit_a":
            found = compiled.native_slope(noise, torch.tensor(0.5), labels)
            assert far(found, net.native_slope(noise, torch.tensor(0.5), labels)) < 1e-6
    assert compiled.guided_channels == net.guided_channels and compiled.native_rules == net.native_rules
    torch._dynamo.reset()
