"""Images as PNG files, a subfolder for each thousand seeds, as EDM2 lays them out with --subdirs."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from erk_bench.base.errors import DamagedError
from erk_bench.base.files import write_atomic
from erk_bench.runs.blocks import Block

FACTS = {"first_seed", "num_seeds", "sha256", "nfe", "nfe_guide", "classes"}  # in a block's index


def png_path(folder: Path, seed: int) -> Path:
    """FOLDER/SSS000/SSSSSS.png"""
    return folder / f"{seed - seed % 1000:06d}" / f"{seed:06d}.png"


def write_png(path: Path, image: np.ndarray, level: int = 1) -> None:
    """image: uint8 [H, W, 3] or [H, W, 1]. level: of compression, 0 to 9; more costs time, not pixels."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
        buffer, "PNG", compress_level=level
    )
    write_atomic(path, buffer.getvalue())


def write_png_block(folder: Path, index: Path, block: Block, images: Tensor, facts: dict[str, Any]) -> None:
    """Write the block's images (uint8 NCHW), then its index, which says that all of them are there."""
    for seed, image in zip(block.seeds, images.permute(0, 2, 3, 1).numpy(), strict=True):
        write_png(png_path(folder, seed), image)
    content = {
        "first_seed": block.seeds[0],
        "num_seeds": len(block.seeds),
        "sha256": _checksum(images),
        **facts,
    }
    content["index_sha256"] = _index_checksum(content)
    write_atomic(index, (json.dumps(content, sort_keys=True) + "\n").encode())


def read_png_block(folder: Path, index: Path, block: Block) -> tuple[Tensor, dict[str, Any]]:
    """The block's images (uint8 NCHW) and the facts of its index.

    Raises DamagedError for a missing, damaged or changed file; the index is removed then, so that running
    again makes the block anew.
    """
    try:
        facts: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        whole = facts.pop("index_sha256", None) in (_index_checksum(facts), None)  # None: earlier versions
        place = (facts["first_seed"], facts["num_seeds"]) == (block.seeds[0], len(block.seeds))
        images = torch.stack([_read(png_path(folder, seed)) for seed in block.seeds])
        problem = "" if facts["sha256"] == _checksum(images) else "its images were changed"
        problem = problem if whole and place and set(facts) == FACTS else "its index was changed"
    except (
        OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError, KeyError,
        TypeError, AttributeError, RuntimeError, RecursionError,
    ) as error:  # fmt: skip
        problem = str(error)
    if problem:
        index.unlink(missing_ok=True)
        raise DamagedError(
            f"the PNG files of {block} in '{folder}' are damaged ({problem}); 'erk-bench run' or 'generate' "
            "with the same settings makes them anew"
        )
    return images, facts


def _read(path: Path) -> Tensor:
    pixels = np.array(Image.open(path))
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def _index_checksum(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _checksum(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()
