"""`load_denoiser`: a network from a file or from a preset's name."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from erk_bench.config_files import config_folder
from erk_bench.errors import unknown_name
from erk_bench.networks.checkpoint import build_denoiser, read_checkpoint
from erk_bench.networks.denoiser import DenoiserNetwork
from erk_bench.storage.assets import Assets


def preset_files() -> dict[str, Path]:
    """The files of configs/model by preset name."""
    return {file.stem: file for file in sorted((config_folder() / "model").glob("*.yaml"))}


def load_denoiser(path_or_preset: str | Path, device: torch.device | str = "cpu") -> DenoiserNetwork:
    """A denoiser ready for inference: `net(x, sigma, labels) -> denoised`, float32 NCHW.

    path_or_preset: a published .pkl, a .safetensors made by 'erk-bench convert', the name of a file in
    configs/model (its main network), or an address that is fetched into the cache (see storage/assets).
    Weights are normalised once, here; nothing in a pickle is run.
    Raises UserError for an unknown name, a missing, damaged or hostile file.
    """
    text = str(path_or_preset)
    assets = Assets.from_environment()
    presets = preset_files()
    if text in presets:
        model = yaml.safe_load(presets[text].read_text(encoding="utf-8"))
        text = model["weights"]["path"]
    elif assets.url(text) is None and not Path(text).suffix and not Path(text).exists():
        raise unknown_name("model preset", text, presets)
    return build_denoiser(read_checkpoint(assets.locate(text)), device)
