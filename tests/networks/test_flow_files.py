"""Files of diffusion transformers: every layout that is met, and one clear line for those that do not fit."""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import erk_bench
from erk_bench.base.errors import UserError
from erk_bench.base.pickle_machine import UnsafePickleError
from erk_bench.base.weight_files import read_state_dicts
from erk_bench.networks import checkpoint as checkpoints
from erk_bench.networks.checkpoint import make_network
from erk_bench.networks.families import FAMILIES
from erk_bench.networks.flow import FlowDenoiser
from erk_bench.networks.flow_facts import FAMILY_NAMES
from erk_bench.networks.flow_files import known_facts, read_flow
from erk_bench.networks.sizes import SIZES
from tests.conftest import golden
from tests.flow_golden import FOLDER, NETWORKS, family, far, flow_golden, flow_net

SMALL = {"num_heads": 2}


def load(path: Path, family: str = "sit", **options: Any) -> FlowDenoiser:
    net = erk_bench.load_denoiser(path, family=family, **{**SMALL, **options})
    assert isinstance(net, FlowDenoiser)
    return net


def error_far(net: FlowDenoiser, expected: str, program: str = "sit") -> float:
    data = golden(f"flow/variants_{program}")
    with torch.inference_mode():
        return far(net.network(data["x"], data["t"], data["y"]), data[expected])


@pytest.mark.parametrize(
    "file",
    [
        "sit_small.safetensors", "sit_small_module.pt", "sit_small_orig_mod.pt", "sit_small_bf16.pt",
        "sit_small_legacy.pt", "sit_small_parameters.pt", "sit_small_shared_storage.pt",
    ],
)  # fmt: skip
def test_layouts_of_one_network(file: str) -> None:
    expected = "forward.ema_from_bf16" if "bf16" in file else "forward.ema"
    assert error_far(load(FOLDER / file), expected) < 2e-6


def test_repas_old_names() -> None:
    assert error_far(load(FOLDER / "repa_small_legacy_names.pt", "repa"), "forward.ema", "repa") < 2e-6


def small_weights() -> dict[str, Tensor]:
    return read_state_dicts(FOLDER / "sit_small.safetensors")[""]


def training_state(**extra: Any) -> dict[str, Any]:
    """A file as SiT's train.py writes it; the weights to use are under 'ema'."""
    ema = small_weights()
    state = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}
    optimizer = {"state": state, "param_groups": [{"lr": 1e-4}]}
    model = {name: torch.zeros_like(value) for name, value in ema.items()}
    args = argparse.Namespace(model="SiT-XL/2", image_size=256)
    return {"model": model, "ema": OrderedDict(ema), "opt": optimizer, "args": args, "steps": 7, **extra}


@pytest.mark.parametrize("legacy", [False, True])
def test_training_states(tmp_path: Path, capsys: pytest.CaptureFixture[str], legacy: bool) -> None:
    """The average is used, and said; another key can be asked for."""
    path = tmp_path / "state.pt"
    torch.save(training_state(step=torch.tensor(5)), path, _use_new_zipfile_serialization=not legacy)
    assert error_far(load(path), "forward.ema") < 2e-6
    assert "holds 'model', 'ema'; 'ema' is used, key=NAME takes another" in capsys.readouterr().err
    zeros = load(path, key="model")
    assert not zeros.network.blocks[0].attn.qkv.weight.any() and capsys.readouterr().err == ""
    with pytest.raises(UserError, match="unknown key of .* 'emma'; did you mean 'ema'"):
        load(path, key="emma")


@pytest.mark.parametrize("first", ["module.", "_orig_mod.", "net.", "module._orig_mod.net."])
def test_prefixes_and_nesting(tmp_path: Path, first: str) -> None:
    path = tmp_path / "state.pt"
    named = {f"{first}{name}": value for name, value in small_weights().items()}
    torch.save({"checkpoint": {"state_dict": named}, "epoch": 3}, path)
    assert error_far(load(path), "forward.ema") < 2e-6
    torch.save(named, path)
    assert error_far(load(path), "forward.ema") < 2e-6


def test_modules_compiled_inside(tmp_path: Path) -> None:
    named = {name.replace("blocks.0.", "blocks.0._orig_mod."): each for name, each in small_weights().items()}
    save_file({name: each.clone() for name, each in named.items()}, tmp_path / "x.safetensors")
    assert error_far(load(tmp_path / "x.safetensors"), "forward.ema") < 2e-6


def test_an_optimizer_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    """Nor anything else that is not used: it takes no memory."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    path = tmp_path / "state.pt"
    torch.save(training_state(moments={"all": torch.ones(2**24)}), path)
    before = resident()
    net = load(path)
    assert resident() - before < 2**24 and path.stat().st_size > 2**26
    assert error_far(net, "forward.ema") < 2e-6


def test_positions_that_a_file_lacks_are_the_formula(tmp_path: Path) -> None:
    """A file of parameters alone: rotary tables are computed, and whether there are any must be said."""
    data = flow_golden("lightningdit_a")
    tensors = read_state_dicts(FOLDER / "lightningdit_a.pt")[""]
    save_file(
        {
            name: each.clone()
            for name, each in tensors.items()
            if "feat_rope" not in name and name != "pos_embed"
        },
        path := tmp_path / "x.safetensors",
    )
    with pytest.raises(UserError, match="does not tell rope .* give it by name: rope=True or False"):
        load(path, "lightningdit")
    with pytest.raises(
        UserError, match="does not tell img_resolution of its LightningDiT network; give it by name"
    ):
        load(path, "lightningdit", rope=True)
    net = load(path, "lightningdit", rope=True, img_resolution=6)
    with torch.inference_mode():
        assert far(net.network(data["x"], data["t"], data["y"]), data["forward"]) < 2e-6


def test_a_state_without_rotary_tables_turns_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has its positions, so it is no file of trained parameters alone; it is said."""
    tensors = read_state_dicts(FOLDER / "lightningdit_a.pt")[""]
    found = {name: each.clone() for name, each in tensors.items() if "feat_rope" not in name}
    save_file(found, path := tmp_path / "x.safetensors")
    assert load(path, "lightningdit").network.rotary is None
    assert (
        "has no rotary tables, so the network is taken to turn nothing; rope=True" in capsys.readouterr().err
    )
    assert load(path, "lightningdit", rope=True).network.rotary is not None
    assert capsys.readouterr().err == ""


def test_rotary_tables_of_jit_are_the_programs() -> None:
    from erk_bench.networks.positions import rotary_tables

    data = flow_golden("jit_a")
    for found, name in zip(rotary_tables(4, 16), ("cos", "sin"), strict=True):
        assert (found - data[f"rope.{name}"]).abs().max() < 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_a_converted_file_needs_nothing_said(tmp_path: Path, name: str) -> None:
    """And says no other thing of its network."""
    file, facts = NETWORKS[name]
    target = tmp_path / "net.safetensors"
    made = checkpoints.convert(FOLDER / file, target, family(name), facts)
    assert len(made.source_sha256) == 64
    data, net = flow_golden(name), erk_bench.load_denoiser(target)
    assert isinstance(net, FlowDenoiser)
    with torch.inference_mode():
        assert torch.equal(
            net.network(data["x"], data["t"], data["y"]),
            flow_net(name).network(data["x"], data["t"], data["y"]),
        )
    erk_bench.load_denoiser(target, family=family(name), **facts)
    assert "num_heads is 5, but the network in" in refusal(target, family(name), num_heads=5)
    other = "dit" if name != "dit_a" else "sit"
    assert f"family is '{other}', but the network in" in refusal(target, other)


def test_another_key_is_converted(tmp_path: Path) -> None:
    torch.save(training_state(), path := tmp_path / "state.pt")
    checkpoints.convert(path, tmp_path / "net.safetensors", "sit", SMALL, "model")
    net = erk_bench.load_denoiser(tmp_path / "net.safetensors")
    assert isinstance(net, FlowDenoiser) and not net.network.blocks[0].attn.qkv.weight.any()
    with pytest.raises(UserError, match="num_heads, key belong to the file of a family; add family=NAME"):
        checkpoints.convert(path, tmp_path / "net.safetensors", "", SMALL, "model")


def test_a_network_without_a_null_class(tmp_path: Path) -> None:
    tensors = dict(small_weights())
    tensors["y_embedder.embedding_table.weight"] = tensors["y_embedder.embedding_table.weight"][:5].clone()
    torch.save(tensors, path := tmp_path / "x.pt")
    net = load(path, num_classes=5)
    x = torch.zeros(1, 4, 4, 4)
    assert net(x, 1.0, torch.tensor([4])).shape == x.shape
    with pytest.raises(UserError, match="knows 5 classes and none for 'any'"):
        net(x, 1.0)


def refusal(path: Path, family: str = "sit", **options: Any) -> str:
    with pytest.raises(UserError) as error:
        erk_bench.load_denoiser(path, family=family, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_a_file_does_not_tell_is_asked_for() -> None:
    assert "does not tell num_heads of its SiT network; give it by name: num_heads=NUMBER" in refusal(
        FOLDER / "sit_a.pt"
    )
    assert "does not tell in_context_start of its JiT network" in refusal(
        FOLDER / "jit_a_ema1.safetensors", "jit"
    )
    assert "num_heads is 3; for " in refusal(FOLDER / "sit_a.pt", num_heads=3)
    assert "a divisor of hidden_size 32" in refusal(FOLDER / "sit_a.pt", num_heads=3)
    assert "in_context_start is 3" in refusal(FOLDER / "jit_a_ema1.safetensors", "jit", in_context_start=3)
    assert "num_heads is 4, but the network in " in refusal(
        FOLDER / "lightningdit_a.pt", "lightningdit", num_heads=4
    )
    assert "img_resolution is 16, but the network in" in refusal(
        FOLDER / "sit_a.pt", num_heads=2, img_resolution=16
    )
    assert "num_classes is 1000, but the network in" in refusal(
        FOLDER / "sit_a.pt", num_heads=2, num_classes=1000
    )
    assert "noise_scale is -1" in refusal(FOLDER / "sit_a.pt", num_heads=2, noise_scale=-1.0)
    assert "num_heads belong to the file of a family; add family=NAME" in refusal(
        FOLDER / "sit_a.pt", "", num_heads=2
    )


@pytest.mark.parametrize(
    ("file", "family", "told"),
    [
        ("lightningdit_a.pt", "sit", "norm1.weight, which SiT networks do not have; it fits family light"),
        ("lightningdit_b.pt", "dit", "without shift, which DiT networks do not have; it fits family light"),
        ("jit_a_ema1.safetensors", "sit", "which SiT networks do not have; it fits family jit"),
        ("repa_a.pt", "sit", "projectors.0.0.weight, which SiT networks do not have; it fits family repa"),
        ("sit_a.pt", "jit", "has no x_embedder.proj1.weight, which JiT networks have; it fits family dit"),
        ("lightningdit_a_latents_stats.pt", "sit", "it has 2 tensors: mean, std"),
    ],
)  # fmt: skip
def test_files_of_other_families_are_named(file: str, family: str, told: str) -> None:
    assert told in refusal(FOLDER / file, family, num_heads=2)


def test_an_unknown_family_is_refused() -> None:
    assert tuple(FAMILIES) == FAMILY_NAMES
    assert "unknown family 'sitt'; did you mean 'sit'?" in refusal(FOLDER / "sit_a.pt", "sitt")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda d: d.pop("blocks.0.mlp.fc2.weight"),
            "tensor 'blocks.0.mlp.fc2.weight' is missing in the file",
        ),
        (lambda d: d.pop("pos_embed"), "does not tell img_resolution"),
        (
            lambda d: d.update(extra=torch.zeros(2)),
            "tensor 'extra' is (2,) in the file, unknown in the network",
        ),
        (lambda d: d.update(pos_embed=torch.zeros(1, 5, 16)), "5 positions, which are no square of patches"),
        (
            lambda d: d.pop("x_embedder.proj.weight"),
            "has no tensor 'x_embedder.proj.weight', so it is no SiT",
        ),
        (
            lambda d: d.pop("y_embedder.embedding_table.weight"),
            "has no tensor 'y_embedder.embedding_table.weight'",
        ),
        (
            lambda d: d.update({"final_layer.linear.weight": torch.zeros(48, 16)}),
            "expected as many, or twice as many",
        ),
        (lambda d: d.update({"blocks.0.attn.proj.bias": torch.zeros(16).long()}), "holds torch.int64"),
        (
            lambda d: d.update({"blocks.9999.attn.proj.bias": torch.zeros(16)}),
            "num_blocks=10000 at 0 resolutions, but the file has 23 tensors",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], told: str
) -> None:
    tensors = dict(small_weights())
    change(tensors)
    torch.save(tensors, path := tmp_path / "x.pt")
    assert told in refusal(path, num_heads=2)


def test_a_file_of_another_size_is_named(tmp_path: Path) -> None:
    """What a preset says is compared before the network is built; a file of a published size is called so."""
    facts = known_facts({"architecture": "sit-xl-2"})
    with pytest.raises(UserError, match="hidden_size is 1152, but the network in .* has 16; leave it out"):
        read_flow(FOLDER / "sit_small.safetensors", "sit", facts)
    with torch.device("meta"):
        weights = make_network(SIZES["sit-s-2"]).state_dict()
    some = {name: each for name, each in weights.items() if not re.match(r"blocks\.([1-9]|10)\.", name)}
    tensors = {name: torch.zeros(each.shape, dtype=torch.bfloat16) for name, each in some.items()}
    torch.save(tensors, path := tmp_path / "small.pt")
    with pytest.raises(UserError, match="hidden_size is 1152, but .* has 384, like sit-s-2; leave it out"):
        read_flow(path, "sit", facts)


def test_a_file_whose_family_was_not_said_is_told_so() -> None:
    for file in ("sit_a.pt", "sit_small.safetensors"):
        told = refusal(FOLDER / file, "")
        assert "family=NAME" in told and "lightningdit" in told


def test_other_files_are_refused(tmp_path: Path) -> None:
    assert "names the global 'torch_utils.persistence" in refusal(FOLDER.parent / "edm2_a_latent_cond.pkl")
    (path := tmp_path / "x.pt").write_bytes((FOLDER / "sit_a.pt").read_bytes()[:-200])
    assert "no readable file of torch.save" in refusal(path)
    torch.save([torch.zeros(3)], path)
    assert "holds a list where named tensors are expected" in refusal(path)
    torch.save({"epoch": 3}, path)
    assert "holds no named tensors" in refusal(path)
    torch.save({"a": {"x": torch.zeros(1)}, "b": {"y": torch.zeros(1)}}, path)
    assert "several sets of tensors: 'a', 'b'; say which: key=NAME" in refusal(path)
    assert "no file at" in refusal(tmp_path / "nothing.pt")
    for legacy in (False, True):
        torch.save({"ema": small_weights(), "hook": print}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(
            UnsafePickleError, match=r"names the global '\w*builtin\w*.print'.*Nothing was run"
        ):
            load(path)
