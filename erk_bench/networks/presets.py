"""`load_denoiser`: a network from a file or from a preset's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from erk_bench.base.addresses import is_address, is_diffusers
from erk_bench.base.assets import Assets
from erk_bench.base.config_files import config_file, config_files, is_own, is_path
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.own_code import code_sha256
from erk_bench.base.own_settings import read_own
from erk_bench.base.yaml_files import read_yaml
from erk_bench.networks.checkpoint import build_denoiser, read_checkpoint
from erk_bench.networks.denoiser import EDMPreconditioned
from erk_bench.networks.diffusers_files import read_diffusers
from erk_bench.networks.diffusers_folder import Finder, Folder
from erk_bench.networks.flow import FlowDenoiser
from erk_bench.networks.flow_files import known_facts, needs_family
from erk_bench.networks.own_network import OwnDenoiser, load_own


def preset_files() -> Mapping[str, Path]:
    """The model presets by name: those of configs/model, then those in folders of the user's own."""
    return config_files("model")


def read_preset(file: Path) -> Mapping[str, Any]:
    """The content of a model preset. Raises UserError for what is no mapping."""
    if is_own(file):
        return read_own(file)
    content = read_yaml(file, "model preset")
    if not isinstance(content, dict):
        raise UserError(f"the model preset '{file}' is no mapping of names to values")
    return content


def preset_weights(file: Path) -> Mapping[str, Any]:
    """The settings of a preset's main network, its address among them as path."""
    content = read_preset(file)
    weights = {"path": content["path"]} if "path" in content else content.get("weights")
    if not isinstance(weights, dict) or not isinstance(weights.get("path"), str):
        raise UserError(f"the model preset '{file}' has no weights.path; see configs/model/digits.yaml")
    return weights


def load_denoiser(
    path_or_preset: str | Path,
    device: torch.device | str = "cpu",
    *,
    family: str | None = None,
    num_heads: int | None = None,
    img_resolution: int | None = None,
    num_classes: int | None = None,
    in_context_start: int | None = None,
    noise_scale: float | None = None,
    rope: bool | None = None,
    key: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> EDMPreconditioned | FlowDenoiser | OwnDenoiser:
    """A denoiser ready for inference: `net(x, sigma, condition) -> denoised`, float32 NCHW.

    path_or_preset: a published .pkl, a .safetensors made by 'erk-bench convert', a preset (its main network)
    by the name of a file in configs/model or in a folder of ERK_BENCH_CONFIGS, or by the path of a YAML file,
    an address that is fetched into the cache (see base/assets), FILE.py:NAME of a network of your
    own, or diffusers:FOLDER of a DiT or UNet that diffusers wrote (diffusers:OWNER/NAME of its hub).
    family: key of FAMILIES, for a file of the weights of a diffusion transformer (docs/models.md). What the
    file tells of it is read; the rest must be given, and what is given must agree with the file: num_heads,
    img_resolution (side of its states), num_classes, in_context_start and noise_scale (JiT), rope
    (LightningDiT, without its tables). key: which weights of a training state; None takes an average
    where there is one. dtype: of the network's arithmetic.
    Weights are normalised once, here; nothing in a file is run.
    Raises UserError for an unknown name, a missing, damaged or hostile file.
    """
    text, facts = str(path_or_preset), dict[str, Any]()
    presets = preset_files()
    if text in presets or (is_path(text) and "://" not in text):
        weights = preset_weights(config_file("model", text))
        text, family = weights["path"], family or weights.get("family")
        facts = known_facts(weights)
    given = {
        "num_heads": num_heads, "img_resolution": img_resolution, "num_classes": num_classes,
        "in_context_start": in_context_start, "noise_scale": noise_scale, "rope": rope,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if (given or key is not None) and not family:
        raise needs_family([*given, *(["key"] if key is not None else [])])
    if is_address(text):
        return load_own(text, code_sha256(text, "the network"), torch.device(device), setting="the network")
    assets = Assets.from_environment()
    if is_diffusers(text):
        files = Folder.of(text, Finder(assets, fetch=True)).files({})
        located = [assets.locate(address) for address in files]
        return build_denoiser(read_diffusers(located[0], located[1], located[2], {}), device, dtype)
    if assets.url(text) is None and not Path(text).suffix and not Path(text).exists():
        raise unknown_name("model preset", text, presets)
    checkpoint = read_checkpoint(assets.locate(text), family or "", {**facts, **given}, key)
    return build_denoiser(checkpoint, device, dtype)
