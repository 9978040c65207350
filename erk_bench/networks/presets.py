"""`load_denoiser`: a network from a file or from a preset's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from erk_bench.base.addresses import is_address
from erk_bench.base.assets import Assets
from erk_bench.base.config_files import config_file, config_files, is_own, is_path
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.own_code import code_sha256
from erk_bench.base.own_settings import read_own
from erk_bench.base.yaml_files import read_yaml
from erk_bench.networks.checkpoint import build_denoiser, read_checkpoint
from erk_bench.networks.denoiser import EDMPreconditioned
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


def preset_weights(file: Path) -> str:
    """The address of a preset's main network."""
    content = read_preset(file)
    weights = content.get("weights")
    path = (
        content["path"] if "path" in content else weights.get("path") if isinstance(weights, dict) else None
    )
    if not isinstance(path, str):
        raise UserError(f"the model preset '{file}' has no weights.path; see configs/model/digits.yaml")
    return path


def load_denoiser(
    path_or_preset: str | Path, device: torch.device | str = "cpu"
) -> EDMPreconditioned | OwnDenoiser:
    """A denoiser ready for inference: `net(x, sigma, condition) -> denoised`, float32 NCHW.

    path_or_preset: a published .pkl, a .safetensors made by 'erk-bench convert', a preset (its main network)
    by the name of a file in configs/model or in a folder of ERK_BENCH_CONFIGS, or by the path of a YAML file,
    an address that is fetched into the cache (see base/assets), or FILE.py:NAME of a network of your own.
    Weights are normalised once, here; nothing in a pickle is run.
    Raises UserError for an unknown name, a missing, damaged or hostile file.
    """
    text = str(path_or_preset)
    presets = preset_files()
    if text in presets or (is_path(text) and "://" not in text):
        text = preset_weights(config_file("model", text))
    if is_address(text):
        return load_own(text, code_sha256(text, "the network"), torch.device(device), setting="the network")
    assets = Assets.from_environment()
    if assets.url(text) is None and not Path(text).suffix and not Path(text).exists():
        raise unknown_name("model preset", text, presets)
    return build_denoiser(read_checkpoint(assets.locate(text)), device)
