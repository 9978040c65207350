"""Features of the images inside a published reference (ADM's arr_0), extracted once and kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.base.files import file_sha256
from erk_bench.base.private import private_folder
from erk_bench.evaluation.detectors import extract_all
from erk_bench.evaluation.reference_formats import read_images

BATCH = 64
FEATURES = "features"


def features_of_images(
    path: Path, keys: Mapping[str, str], assets: Assets, device: torch.device | str
) -> dict[str, Tensor]:
    """Features [N, D] of the images in an .npz by detector, float32. keys: of the detectors, by name.

    They lie in the user's own folder of the cache, named after the content of the file and the key; where
    that cannot be written they are computed each time. Raises UserError for images that a detector refuses.
    """
    names = {name: _name(path, key) for name, key in keys.items()}
    found = {name: kept for name in keys if (kept := _kept(assets, names[name])) is not None}
    missing = {name: key for name, key in keys.items() if name not in found}
    if not missing:
        return found
    parts: dict[str, list[Tensor]] = {name: [] for name in missing}
    for images in read_images(path, BATCH):
        for name, tensors in extract_all(missing, assets, device, images).items():
            parts[name].append(tensors[FEATURES])
    for name in missing:
        found[name] = torch.cat(parts[name])
        if not found[name].isfinite().all():
            raise UserError(
                f"features of the images in '{path}' by '{name}' are not finite; check its weights"
            )
        with suppress(UserError), private_folder(assets.private) as own:
            own.write(names[name], bytes_of({FEATURES: found[name]}))
    return found


def _name(path: Path, key: str) -> str:
    digest = hashlib.sha256(f"{file_sha256(path)} {key}".encode()).hexdigest()
    return f"reference-{digest[:32]}.safetensors"


def _kept(assets: Assets, name: str) -> Tensor | None:
    """None where it is not there, or damaged."""
    if not (assets.private / name).is_file():
        return None
    with suppress(UserError, OSError, SafetensorError), private_folder(assets.private) as own:
        return tensors_of(own.read(name)).get(FEATURES)
    return None
