"""Checkpoints: conversion, our file format, and the errors of files that do not fit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from safetensors.torch import save as safetensors_bytes

import erk_bench
from erk_bench.base.errors import UnknownNameError, UserError
from erk_bench.networks.checkpoint import (
    FORMAT,
    METADATA_KEY,
    NOT_SERVED,
    Checkpoint,
    build_denoiser,
    convert,
    file_sha256,
    read_checkpoint,
    write_checkpoint,
)
from erk_bench.networks.edm2 import MPConv
from tests.conftest import golden, golden_facts, golden_net, golden_path, raw_edm2

LETTERS = "abcde"


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """Network d in our format."""
    target = tmp_path / "d.safetensors"
    convert(golden_path("d"), target)
    return target


def metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        content: dict[str, Any] = json.loads(file.metadata()[METADATA_KEY])
    return content


def changed(checkpoint: Checkpoint, **tensors: torch.Tensor | None) -> Checkpoint:
    """The same checkpoint with some tensors replaced, or left out if None; `__` stands for a dot."""
    weights = dict(checkpoint.weights)
    for name, tensor in tensors.items():
        if tensor is None:
            del weights[name.replace("__", ".")]
        else:
            weights[name.replace("__", ".")] = tensor
    return dataclasses.replace(checkpoint, weights=weights)


@pytest.mark.parametrize("letter", LETTERS)
def test_conversion_keeps_the_outputs_bit_by_bit(letter: str, tmp_path: Path) -> None:
    target = tmp_path / "network.safetensors"
    convert(golden_path(letter), target)
    net, original = erk_bench.load_denoiser(target), golden_net(letter)
    data = golden("edm2_denoiser")
    for sigma in (0.05, 2.0):
        x = data[f"{letter}.clean"] + sigma * data[f"{letter}.noise"]
        labels = data.get(f"{letter}.labels")
        assert torch.equal(net(x, sigma, labels), original(x, sigma, labels))
    assert torch.equal(raw_edm2(net).logvar(2.0), raw_edm2(original).logvar(2.0))


@pytest.mark.parametrize("letter", LETTERS)
def test_conversion_keeps_tensors_and_facts(letter: str, tmp_path: Path) -> None:
    source, target = golden_path(letter), tmp_path / "network.safetensors"
    made = convert(source, target)
    facts = golden_facts("edm2_nets")[source.name]
    again = read_checkpoint(target)
    for checkpoint in (made, again):
        assert checkpoint.class_name == "Precond"
        assert checkpoint.init == facts["constructor_kwargs"]
        assert checkpoint.encoder == facts["encoder"]
        assert checkpoint.source_sha256 == facts["pickle"]["sha256"]
        assert checkpoint.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert set(again.weights) == set(made.weights) == set(facts["state_dict"])
    for name, tensor in again.weights.items():
        assert str(tensor.dtype) == f"torch.{facts['state_dict'][name]['dtype']}", name
        assert torch.equal(tensor, made.weights[name]), name


def test_float16_survives(tmp_path: Path) -> None:
    target = tmp_path / "e.safetensors"
    convert(golden_path("e"), target)
    assert {tensor.dtype for tensor in load_file(target).values()} == {torch.float16}


def test_metadata_holds_everything_but_the_weights(converted: Path) -> None:
    facts = golden_facts("edm2_nets")["edm2_d_pixel_dropout.pkl"]
    assert metadata(converted) == {
        "format": FORMAT,
        "class_name": "Precond",
        "init": facts["constructor_kwargs"],
        "source_sha256": facts["pickle"]["sha256"],
        "encoder": "StandardRGBEncoder",
        "note": "",
    }


def test_a_note_is_kept(tmp_path: Path) -> None:
    checkpoint = dataclasses.replace(read_checkpoint(golden_path("d")), note="line 1\nline 2: é")
    write_checkpoint(tmp_path / "d.safetensors", checkpoint)
    assert read_checkpoint(tmp_path / "d.safetensors").note == checkpoint.note


def test_writing_is_deterministic(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(golden_path("d"))
    backwards = dataclasses.replace(
        checkpoint,
        init=dict(reversed(checkpoint.init.items())),
        weights=dict(reversed(checkpoint.weights.items())),
    )
    for index, content in enumerate((checkpoint, checkpoint, backwards)):
        write_checkpoint(tmp_path / f"{index}.safetensors", content)
    first = (tmp_path / "0.safetensors").read_bytes()
    assert (tmp_path / "1.safetensors").read_bytes() == first
    assert (tmp_path / "2.safetensors").read_bytes() == first


def test_converting_our_format_keeps_the_first_source(converted: Path, tmp_path: Path) -> None:
    convert(converted, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == converted.read_bytes()


def test_tensors_that_are_not_contiguous(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(golden_path("d"))
    name, tensor = next((name, value) for name, value in checkpoint.weights.items() if value.ndim == 4)
    turned = tensor.transpose(0, 3).contiguous().transpose(0, 3)
    assert not turned.is_contiguous()
    changed_weights = {**checkpoint.weights, name: turned}
    write_checkpoint(tmp_path / "d.safetensors", dataclasses.replace(checkpoint, weights=changed_weights))
    assert torch.equal(read_checkpoint(tmp_path / "d.safetensors").weights[name], tensor)


def test_built_network_is_ready_for_inference(converted: Path) -> None:
    net = build_denoiser(read_checkpoint(converted), compute_dtype=torch.bfloat16)
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert all(module.folded for module in net.modules() if isinstance(module, MPConv))
    assert net.network.compute_dtype == torch.bfloat16


def test_unknown_class_name() -> None:
    with pytest.raises(UnknownNameError, match=r"network class 'Precnd'; did you mean 'Precond'\?"):
        Checkpoint("Precnd", {}, {}, "")


def test_unknown_class_name_in_files(converted: Path, tmp_path: Path) -> None:
    text = golden_path("d").read_bytes()
    assert text.count(b"\x8c\x07Precond") == 1
    damaged = tmp_path / "other.pkl"
    damaged.write_bytes(text.replace(b"\x8c\x07Precond", b"\x8c\x07EPrecnd"))
    with pytest.raises(UnknownNameError, match="network class 'EPrecnd'"):
        read_checkpoint(damaged)
    meta = {**metadata(converted), "class_name": "VPPrecond"}
    save_file(load_file(converted), tmp_path / "other.safetensors", {METADATA_KEY: json.dumps(meta)})
    with pytest.raises(UnknownNameError, match="network class 'VPPrecond'"):
        read_checkpoint(tmp_path / "other.safetensors")


@pytest.mark.parametrize("name", sorted(NOT_SERVED))
def test_other_classes_of_the_published_programs_are_explained(name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"'{name}' is .*precondition.*model=edm-") as caught:
        Checkpoint(name, {}, {}, "")
    assert "did you mean" not in str(caught.value)


def test_deep_metadata(tmp_path: Path) -> None:
    path = tmp_path / "deep.safetensors"
    for text in ("[" * 100_000, "[" * 70 + "]" * 70, '{"a":' * 500 + "1" + "}" * 500):
        save_file({"weight": torch.zeros(3)}, path, {METADATA_KEY: text})
        with pytest.raises(UserError, match="no readable safetensors file"):
            read_checkpoint(path)


def test_absurd_headers_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "absurd.safetensors"
    shapes = ([2**62, 4], [2**63], [-1], [10**30], [2**31, 2**31, 2**31])
    texts = [
        json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 16]}}).encode()
        for shape in shapes
    ]
    for text in [*texts, b"[" * 50_000, b'{"w":' * 5000]:
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
        with pytest.raises(UserError, match="no readable safetensors file"):
            read_checkpoint(path)
    with path.open("wb") as file:  # a sparse file, so that the announced header is there
        file.write((50_000_000).to_bytes(8, "little"))
        file.truncate(60_000_000)
    with pytest.raises(UserError, match="a header of 50,000,000 bytes"):
        read_checkpoint(path)


def test_names_of_a_file_cannot_steer_the_terminal(converted: Path, tmp_path: Path) -> None:
    tensors = load_file(converted)
    tensors["\x1b[2J\n\u202egood"] = tensors.pop("unet.emb_noise.weight")
    path = tmp_path / "steering.safetensors"
    save_file(tensors, path, {METADATA_KEY: json.dumps(metadata(converted))})
    with pytest.raises(UserError) as caught:
        build_denoiser(read_checkpoint(path))
    assert str(caught.value).isprintable()
    assert r"\x1b[2J\n\u202egood" in str(caught.value)


@pytest.mark.parametrize("init", [{"num_blocks": 10**9}, {"num_blocks": 50, "channel_mult": [1] * 60}])
def test_more_blocks_than_tensors(init: dict[str, Any], converted: Path, tmp_path: Path) -> None:
    meta = metadata(converted)
    meta["init"] |= init
    path = tmp_path / "many.safetensors"
    save_file(load_file(converted), path, {METADATA_KEY: json.dumps(meta)})
    with pytest.raises(UserError, match=r"cannot build Precond from .*num_blocks=\d+ at .* tensors"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [[1] * 65, [[1]], {"a": 1}, torch.zeros(2), b"x"])
def test_arguments_are_numbers_and_texts(value: Any) -> None:
    with pytest.raises(UserError, match="constructor argument 'channel_mult' of Precond is of type"):
        Checkpoint("Precond", {"channel_mult": value}, {}, "")


def test_written_bytes_are_the_librarys(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(golden_path("d"))
    mixed = {
        f"{index}.é{dtype}": torch.arange(3).to(dtype)
        for index, dtype in enumerate([torch.float16, torch.float64, torch.bfloat16, torch.float32])
    }
    write_checkpoint(tmp_path / "d.safetensors", dataclasses.replace(checkpoint, weights=mixed))
    raw = (tmp_path / "d.safetensors").read_bytes()
    assert raw == safetensors_bytes(mixed, {METADATA_KEY: json.dumps(metadata(tmp_path / "d.safetensors"))})


def test_a_network_keeps_nothing_of_its_file(tmp_path: Path) -> None:
    """No tensor shares memory with the checkpoint, pickled or not, and the checkpoint stays as it was."""
    convert(golden_path("d"), tmp_path / "d.safetensors")
    for path in (golden_path("d"), tmp_path / "d.safetensors", golden_path("f")):
        checkpoint = read_checkpoint(path)
        before = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
        net = build_denoiser(checkpoint)
        stored = {tensor.untyped_storage().data_ptr() for tensor in checkpoint.weights.values()}
        for tensor in [*net.parameters(), *net.buffers()]:
            assert tensor.untyped_storage().data_ptr() not in stored
            assert not tensor.is_meta and not tensor.requires_grad
        assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint.weights.items())


def test_building_draws_no_random_numbers() -> None:
    checkpoint = read_checkpoint(golden_path("d"))
    state = torch.get_rng_state()
    build_denoiser(checkpoint)
    assert torch.equal(torch.get_rng_state(), state)


LOADED = """
import re, sys
from pathlib import Path
from erk_bench.networks.checkpoint import build_denoiser, read_checkpoint

def memory(field):
    return int(re.search(rf"{field}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1000

build_denoiser(read_checkpoint(Path(sys.argv[1])))  # a small one, for what the libraries load late
before = memory("VmRSS")
net = build_denoiser(read_checkpoint(Path(sys.argv[2])))
size = sum(p.numel() * p.itemsize for p in net.parameters())
print((memory("VmHWM") - before) / size, (memory("VmRSS") - before) / size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux shows it")
def test_memory_of_loading(tmp_path: Path) -> None:
    """The peak stays below twice the parameters in float32, and what remains is the parameters."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
    from bench_loading import write_published

    write_published(tmp_path / "net.pkl", "edm2-img512-xs")
    convert(tmp_path / "net.pkl", tmp_path / "net.safetensors")
    for name in ("net.pkl", "net.safetensors"):
        done = subprocess.run(
            [sys.executable, "-c", LOADED, str(golden_path("e")), str(tmp_path / name)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        peak, rest = map(float, done.stdout.split())
        assert peak < 2.0, name
        assert rest < 1.3, name


def test_unknown_constructor_argument() -> None:
    with pytest.raises(UnknownNameError) as caught:
        Checkpoint("Precond", {"img_resolution": 8, "modelchannels": 8}, {}, "")
    assert "constructor argument of Precond 'modelchannels'" in str(caught.value)
    assert "did you mean 'model_channels'?" in str(caught.value)


@pytest.mark.parametrize(
    "init",
    [
        {"img_resolution": 8},
        {"channels_per_head": 5},
        {"channel_mult": 3},
        {"model_channels": "many"},
        {"model_channels": -1},
    ],
)
def test_constructor_arguments_that_build_nothing(init: dict[str, Any]) -> None:
    complete = {**read_checkpoint(golden_path("d")).init, **init}
    if init == {"img_resolution": 8}:
        complete = init  # required ones are missing
    with pytest.raises(UserError, match="cannot build Precond from"):
        build_denoiser(Checkpoint("Precond", complete, {}, ""))


def test_foreign_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    for meta in (None, {"format": "pt"}, {METADATA_KEY: json.dumps({"format": "erk-bench checkpoint 9"})}):
        save_file({"weight": torch.zeros(3)}, path, meta)
        with pytest.raises(UserError, match=r"no erk-bench metadata.*erk-bench convert"):
            read_checkpoint(path)


def test_metadata_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path, {METADATA_KEY: "{not json"})
    with pytest.raises(UserError, match=r"other\.safetensors"):
        read_checkpoint(path)


@pytest.mark.parametrize("tenths", range(10))
def test_truncated_safetensors(tenths: int, converted: Path) -> None:
    raw = converted.read_bytes()
    converted.write_bytes(raw[: len(raw) * tenths // 10])
    with pytest.raises(UserError, match=r"d\.safetensors' is no readable safetensors.*truncated"):
        read_checkpoint(converted)


def test_pickle_named_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    path.write_bytes(golden_path("d").read_bytes())
    with pytest.raises(UserError, match="no readable safetensors"):
        read_checkpoint(path)


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    checkpoint = changed(read_checkpoint(golden_path("d")), unet__emb_noise__weight=None)
    with pytest.raises(
        UserError, match=r"tensor 'unet\.emb_noise\.weight' is missing in the file.*\(1 tensors"
    ):
        build_denoiser(checkpoint)


def test_wrong_shape_is_named() -> None:
    checkpoint = changed(read_checkpoint(golden_path("d")), unet__emb_noise__weight=torch.zeros(24, 17))
    with pytest.raises(UserError, match=r"'unet\.emb_noise\.weight' is \(24, 17\) in the file, \(24, 16\)"):
        build_denoiser(checkpoint)


def test_surplus_tensor_is_named() -> None:
    checkpoint = changed(read_checkpoint(golden_path("d")), extra=torch.zeros(2))
    with pytest.raises(UserError, match=r"tensor 'extra' is \(2,\) in the file, unknown in the network"):
        build_denoiser(checkpoint)


def test_convert_writes_nothing_that_does_not_build(converted: Path, tmp_path: Path) -> None:
    bad, target = tmp_path / "bad.safetensors", tmp_path / "target.safetensors"
    write_checkpoint(bad, changed(read_checkpoint(converted), logvar_linear__weight=None))
    with pytest.raises(UserError, match=r"logvar_linear\.weight"):
        convert(bad, target)
    assert not target.exists()


@pytest.mark.parametrize("name", ["network.pkl", "network", "network.pt"])
def test_target_must_be_safetensors(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        convert(golden_path("d"), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [{"net": 1, "encoder": None}, {"ema": {"weight": 1}}, [1, 2], "text", None]
)
def test_pickle_without_network(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps(content, 4))
    with pytest.raises(UserError, match="no network under the key 'ema'") as caught:
        read_checkpoint(path)
    assert str(caught.value).endswith("net, encoder") == (content == {"net": 1, "encoder": None})


def test_missing_files(tmp_path: Path) -> None:
    for name in ("absent.pkl", "absent.safetensors"):
        with pytest.raises(UserError, match=rf"'.*{name}' does not exist"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(UserError, match="cannot read"):
        file_sha256(tmp_path / "absent.pkl")


def test_load_denoiser_takes_a_preset_or_a_path(converted: Path) -> None:
    preset = erk_bench.load_denoiser("digits")
    assert (preset.img_resolution, preset.img_channels, preset.label_dim) == (8, 1, 10)
    denoised = preset(torch.zeros(2, 1, 8, 8), 1.0, torch.eye(10)[:2])
    assert denoised.shape == (2, 1, 8, 8) and denoised.dtype == torch.float32
    for path in (golden_path("d"), str(golden_path("d")), converted, str(converted)):
        net = erk_bench.load_denoiser(path)
        assert (net.img_resolution, net.img_channels, net.sigma_data) == (16, 3, 0.6)


def test_load_denoiser_suggests_the_nearest_preset() -> None:
    with pytest.raises(UnknownNameError, match=r"model preset 'digist'; did you mean 'digits'\?"):
        erk_bench.load_denoiser("digist")


@pytest.mark.parametrize("name", ["absent.pkl", "absent.safetensors", "folder/absent.pkl"])
def test_load_denoiser_of_a_missing_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no file at '.*{name}'"):
        erk_bench.load_denoiser(tmp_path / name)


@pytest.mark.parametrize("key", ["class_name", "init", "source_sha256", "encoder", "note"])
@pytest.mark.parametrize("value", [None, ["x"]])
def test_damaged_metadata(tmp_path: Path, key: str, value: object) -> None:
    """Our own metadata with a field missing or of another kind."""
    path = tmp_path / "net.safetensors"
    convert(golden_path("d"), path)
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()[METADATA_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    meta[key] = value
    path.write_bytes(safetensors_bytes(tensors, {METADATA_KEY: json.dumps(meta)}))
    with pytest.raises(UserError, match="damaged erk-bench metadata"):
        read_checkpoint(path)


def test_impossible_arguments_and_integer_weights() -> None:
    good = read_checkpoint(golden_path("d"))
    with pytest.raises(UserError, match="cannot build Precond"):
        build_denoiser(dataclasses.replace(good, init={**good.init, "channels_per_head": 0}))
    whole = {name: value.long() for name, value in good.weights.items()}
    with pytest.raises(UserError, match="must be floating point"):
        build_denoiser(dataclasses.replace(good, weights=whole))
