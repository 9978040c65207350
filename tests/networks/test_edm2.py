"""The EDM2 denoiser against the published program's outputs (tests/data/edm2_*) and its own promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from erk_bench.networks.checkpoint import Checkpoint, build_denoiser, read_checkpoint
from erk_bench.networks.denoiser import EDMPreconditioned
from erk_bench.networks.edm2 import BlockOptions, EDM2Network, MPBlock, MPConv, normalize
from erk_bench.training.denoisers import edm2_loss
from tests.conftest import golden, golden_facts, golden_net, golden_path, raw_edm2

LETTERS = "abcde"
SIGMAS = ("0.002", "0.05", "0.5", "2", "10", "80")
TOLERANCE = 1e-5
SMALL = {
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 10,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 8,
}


def max_difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def noisy(letter: str, sigma: float) -> Tensor:
    """The golden input of a network: clean + sigma * noise."""
    data = golden("edm2_denoiser")
    return data[f"{letter}.clean"] + sigma * data[f"{letter}.noise"]


def labels_of(letter: str) -> Tensor | None:
    return golden("edm2_denoiser").get(f"{letter}.labels")


def unfolded(letter: str) -> EDMPreconditioned:
    """A golden network as in training: raw weights, normalised at every call."""
    checkpoint = read_checkpoint(golden_path(letter))
    raw = EDM2Network(**checkpoint.init)
    raw.load_state_dict(dict(checkpoint.weights), assign=True)
    return EDMPreconditioned(raw).eval().requires_grad_(False)


def live_net(seed: int, **changes: Any) -> EDMPreconditioned:
    """A small network with non-zero gains, so that every layer reaches the output."""
    torch.manual_seed(seed)
    net = EDMPreconditioned(EDM2Network(**{**SMALL, **changes}))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("_gain"):
                parameter.fill_(0.7)
    return net


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("letter", LETTERS)
def test_denoised_is_published(letter: str, sigma: str) -> None:
    level = torch.tensor(float(sigma))
    denoised = golden_net(letter)(noisy(letter, float(sigma)), level, labels_of(letter))
    assert denoised.dtype == torch.float32
    assert max_difference(denoised, golden("edm2_denoiser")[f"{letter}.sigma{sigma}.D"]) < TOLERANCE


@pytest.mark.parametrize("letter", LETTERS)
def test_one_noise_level_per_sample_is_published(letter: str) -> None:
    data = golden("edm2_denoiser")
    levels = data[f"{letter}.sigma_vec"]
    x = data[f"{letter}.clean"] + levels.reshape(-1, 1, 1, 1) * data[f"{letter}.noise"]
    denoised = golden_net(letter)(x, levels, labels_of(letter))
    assert max_difference(denoised, data[f"{letter}.vec.D"]) < TOLERANCE
    assert (
        max_difference(raw_edm2(golden_net(letter)).logvar(levels), data[f"{letter}.vec.logvar"]) < TOLERANCE
    )


@pytest.mark.parametrize("letter", "acde")
def test_no_label_is_an_all_zero_row(letter: str) -> None:
    denoised = golden_net(letter)(noisy(letter, 2.0), 2.0)
    assert max_difference(denoised, golden("edm2_denoiser")[f"{letter}.nolabel.sigma2.D"]) < TOLERANCE


def test_unconditional_network_ignores_labels() -> None:
    x = noisy("b", 2.0)
    assert torch.equal(golden_net("b")(x, 2.0, torch.eye(10)[:3]), golden_net("b")(x, 2.0))


@pytest.mark.parametrize("letter", LETTERS)
def test_uncertainty_is_published(letter: str) -> None:
    levels = torch.tensor([float(sigma) for sigma in SIGMAS])
    logvar = raw_edm2(golden_net(letter)).logvar(levels)
    assert max_difference(logvar, golden("edm2_denoiser")[f"{letter}.logvar"]) < TOLERANCE


@pytest.mark.parametrize("letter", "ac")
def test_training_loss_is_published(letter: str) -> None:
    data = golden("edm2_denoiser")
    clean, labels = data[f"{letter}.clean"], data[f"{letter}.labels"]
    torch.manual_seed(1077)
    sigma = (torch.randn(len(clean), 1, 1, 1) * 1.0 - 0.4).exp()
    noise = torch.randn_like(clean)
    expected = data[f"{letter}.loss"]
    loss = edm2_loss(raw_edm2(unfolded(letter)), clean, noise, sigma, labels)
    # The weight and the learned variance amplify the network's rounding; elements reach 200.
    assert ((loss - expected).abs() / (1 + expected.abs())).max().item() < 5 * TOLERANCE


def test_float16_gains_are_rounded_as_published() -> None:
    """Casting network e to float32 first gives other numbers, those of `e_cast32`, not of `e`."""
    stored = read_checkpoint(golden_path("e"))
    assert {tensor.dtype for tensor in stored.weights.values()} == {torch.float16}
    wide = {name: tensor.float() for name, tensor in stored.weights.items()}
    net = build_denoiser(Checkpoint(stored.class_name, stored.init, wide, stored.source_sha256))
    data = golden("edm2_denoiser")
    for sigma in ("0.5", "2"):
        denoised = net(noisy("e", float(sigma)), float(sigma), labels_of("e"))
        assert max_difference(denoised, data[f"e_cast32.sigma{sigma}.D"]) < TOLERANCE
        assert max_difference(denoised, data[f"e.sigma{sigma}.D"]) > 5 * TOLERANCE
    levels = torch.tensor([float(sigma) for sigma in SIGMAS])
    assert max_difference(raw_edm2(net).logvar(levels), data["e_cast32.logvar"]) < TOLERANCE


@pytest.mark.parametrize("letter", LETTERS)
def test_every_block_matches_its_fingerprint(letter: str) -> None:
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, arguments, output: seen.setdefault(name, output)

    fingerprints = golden_facts("edm2_fingerprints")[letter]
    net = golden_net(letter)
    hooks = [
        raw_edm2(net).unet.get_submodule(name).register_forward_hook(keep(name)) for name in fingerprints
    ]
    try:
        net(noisy(letter, 2.0), torch.tensor(2.0), labels_of(letter))
    finally:
        for hook in hooks:
            hook.remove()
    assert list(seen) == list(fingerprints)  # the blocks also run in the published order
    for name, expected in fingerprints.items():
        output = seen[name]
        assert list(output.shape) == expected["shape"], name
        assert output.double().mean().item() == pytest.approx(expected["mean"], abs=TOLERANCE), name
        std = output.double().std(correction=0).item()
        assert std == pytest.approx(expected["std"], abs=TOLERANCE), name
        first = output.flatten()[:8].tolist()
        assert first == pytest.approx(expected["first8"], abs=TOLERANCE), name


@pytest.mark.parametrize("letter", LETTERS)
def test_folding_changes_nothing(letter: str) -> None:
    raw = unfolded(letter)
    for sigma in (0.05, 2.0):
        x = noisy(letter, sigma)
        difference = max_difference(
            raw(x, sigma, labels_of(letter)), golden_net(letter)(x, sigma, labels_of(letter))
        )
        assert difference < 1e-6


def test_folded_network_normalises_no_weight_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: MPConv, gain: float = 1.0) -> Tensor:
        raise AssertionError("a folded weight was normalised again")

    folded, raw = golden_net("a"), unfolded("a")
    monkeypatch.setattr(MPConv, "effective_weight", refuse)
    x = noisy("a", 2.0)
    folded(x, 2.0, labels_of("a"))
    raw_edm2(folded).logvar(2.0)
    with pytest.raises(AssertionError, match="normalised again"):
        raw(x, 2.0, labels_of("a"))  # the patch does catch an unfolded network


def test_folding_twice_is_folding_once() -> None:
    net = unfolded("a").fold()
    x = noisy("a", 2.0)
    once = net(x, 2.0, labels_of("a"))
    assert torch.equal(net.fold()(x, 2.0, labels_of("a")), once)


@pytest.mark.parametrize("letter", LETTERS)
def test_scalar_and_vector_noise_level_agree(letter: str) -> None:
    net, x = golden_net(letter), noisy(letter, 2.0)
    vector = net(x, torch.full([3], 2.0), labels_of(letter))
    for scalar in (2.0, torch.tensor(2.0), torch.tensor(2.0, dtype=torch.float64)):
        assert max_difference(net(x, scalar, labels_of(letter)), vector) < 2e-6


def test_one_row_of_labels_serves_a_batch() -> None:
    net, x = golden_net("a"), noisy("a", 2.0)
    row = torch.eye(10)[3:4]
    assert max_difference(net(x, 2.0, row), net(x, 2.0, row.expand(3, -1))) < 2e-6


@pytest.mark.parametrize("file", sorted(golden_facts("edm2_nets")))
def test_small_state_dicts_are_published(file: str) -> None:
    facts = golden_facts("edm2_nets")[file]
    letter = file.split("_")[1]
    stored = read_checkpoint(golden_path(letter))
    assert stored.init == facts["constructor_kwargs"]
    assert stored.encoder == facts["encoder"]
    found = [
        (name, {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")})
        for name, tensor in stored.weights.items()
    ]
    assert found == list(facts["state_dict"].items())
    net = EDM2Network(**facts["constructor_kwargs"])
    ours = [(name, list(tensor.shape)) for name, tensor in net.state_dict().items()]
    assert ours == [(name, entry["shape"]) for name, entry in facts["state_dict"].items()]
    assert sum(parameter.numel() for parameter in net.parameters()) == facts["num_parameters"]
    for name, gain in facts["gains"].items():
        assert stored.weights[name].item() == pytest.approx(gain, abs=1e-7)


@pytest.mark.parametrize("name", sorted(golden_facts("architectures_edm2")))
def test_full_size_networks_are_published(name: str) -> None:
    facts = golden_facts("architectures_edm2")[name]
    with torch.device("meta"):
        net = EDM2Network(**facts["constructor_kwargs"])
    ours = [(key, list(tensor.shape)) for key, tensor in net.state_dict().items()]
    assert ours == list(facts["state_dict"].items())
    assert len(ours) == facts["num_state_dict_keys"]
    assert sum(parameter.numel() for parameter in net.parameters()) == facts["num_parameters"]
    assert sum(buffer.numel() for buffer in net.buffers()) == facts["num_buffer_values"]


@pytest.mark.parametrize("letter", "ac")
def test_bfloat16_returns_float32_and_is_close(letter: str) -> None:
    net = unfolded(letter).fold(compute_dtype=torch.bfloat16)
    dtypes = {
        conv.weight.dtype for conv in net.modules() if isinstance(conv, MPConv) and conv.weight.ndim == 4
    }
    assert dtypes == {torch.bfloat16}
    x = noisy(letter, 2.0)
    denoised = net(x, 2.0, labels_of(letter))
    assert denoised.dtype == torch.float32
    difference = max_difference(denoised, golden_net(letter)(x, 2.0, labels_of(letter)))
    assert 1e-4 < difference < 0.05  # really lower precision, and no more than that


def test_block_refuses_channels_that_do_not_split_into_heads() -> None:
    options = BlockOptions(channels_per_head=64)
    with pytest.raises(ValueError, match=r"129 channels.*2 equal heads"):
        MPBlock(129, 129, 32, flavor="enc", attention=True, options=options)
    MPBlock(129, 129, 32, flavor="enc", attention=False, options=options)  # heads do not matter here


def test_force_normalize_gives_unit_rows_and_the_same_outputs() -> None:
    net = live_net(seed=5).eval()
    with torch.no_grad():
        for conv in net.modules():
            if isinstance(conv, MPConv):
                rows = torch.linspace(0.5, 40.0, len(conv.weight))
                conv.weight.mul_(rows.reshape(-1, *[1] * (conv.weight.ndim - 1)))
        x, labels = torch.randn(3, 1, 8, 8), torch.eye(10)[:3]
        scaled = net(x, 0.7, labels)
        raw_edm2(net).force_normalize()
        unit = net(x, 0.7, labels)
        assert max_difference(unit, scaled) < 1e-3  # NORM_EPS counts differently at another scale
        raw_edm2(net).force_normalize()
        assert max_difference(net(x, 0.7, labels), unit) < 1e-5  # rows as they are in training
    for name, conv in net.named_modules():
        if isinstance(conv, MPConv):
            rms = conv.weight.flatten(1).square().mean(1).sqrt()
            assert max_difference(rms, torch.ones_like(rms)) < 5e-4, name


def test_normalize_matches_its_formula() -> None:
    torch.manual_seed(3)
    w = torch.randn(4, 6, 3, 3, dtype=torch.float64)
    norm = w.flatten(1).norm(dim=1).reshape(4, 1, 1, 1)
    expected = w / (1e-4 + norm * math.sqrt(4 / w.numel()))
    assert max_difference(normalize(w), expected) < 1e-6
    pixel_norm = w.norm(dim=1, keepdim=True)
    expected = w / (1e-4 + pixel_norm * math.sqrt(pixel_norm.numel() / w.numel()))
    assert max_difference(normalize(w, dim=1), expected) < 1e-6


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("fresh", [True, False], ids=["zero gains", "live gains"])
def test_gradients_are_finite_for_zero_images_and_labels(fresh: bool, dropout: float) -> None:
    torch.manual_seed(6)
    net = EDM2Network(**SMALL, dropout=dropout) if fresh else raw_edm2(live_net(seed=6, dropout=dropout))
    zeros = torch.zeros(4, 1, 8, 8)
    sigma = torch.tensor([0.01, 0.5, 2.0, 80.0]).reshape(-1, 1, 1, 1)
    loss = edm2_loss(net.train(), zeros, zeros, sigma, torch.zeros(4, 10)).mean()
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_dropout_acts_in_training_only() -> None:
    net = live_net(seed=7, dropout=0.5).requires_grad_(False)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(net.eval()(x, 1.0), net(x, 1.0))
    assert not torch.equal(net.train()(x, 1.0), net(x, 1.0))


def test_activations_are_clipped() -> None:
    """Network d was built with clip_act 4; strong inputs reach that value and never pass it."""
    torch.manual_seed(8)
    block = raw_edm2(golden_net("d")).unet.get_submodule("enc.16x16_block0")
    output = block(1000 * torch.randn(1, 8, 16, 16), 100 * torch.randn(1, 24))
    assert output.abs().max().item() == pytest.approx(4.0)


def test_gradient_through_an_all_zero_vector_is_finite() -> None:
    x = torch.zeros(2, 3, 4, requires_grad=True)
    normalize(x, dim=1).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
