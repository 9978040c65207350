"""Sets of images that something else made: what is known of their files, and the images of a block."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.image_source import ImageSource
from erk_bench.evaluation.real_images import center_crop, open_images
from erk_bench.runs.blocks import Block
from erk_bench.spec import SetSpec


class ReadBlock(NamedTuple):
    """uint8 images [B, 3, H, W] of a block of a set, and the places of those that could not be read."""

    images: Tensor
    left_out: tuple[int, ...]


@functools.lru_cache(maxsize=8)
def opened(place: str, sha256: str) -> ImageSource:
    """The set of that content at a place, listed once a process."""
    return open_images(place)


def describe(source: ImageSource, resolution: int | None) -> dict[str, Any]:
    """Fields of a SetSpec that its files decide, by name."""
    digests = [source.sha256(index).hex() for index in range(len(source))]
    content = json.dumps([list(source.names), digests])
    first = _pixels(source, 0, resolution)
    return {
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
        "height": first.shape[1],
        "width": first.shape[2],
        "numbers": _numbers(source.names),
        "names_sha256": _names_sha256(source.names),
    }


def read_block(spec: SetSpec, block: Block) -> ReadBlock:
    """The images of a block. Raises UserError for one that cannot be read, unless such are left out."""
    source = opened(spec.images, spec.sha256)
    images, left_out = [], []
    for index in block.seeds:
        if index >= spec.num_images:
            break
        try:
            images.append(_pixels(source, index, spec.resolution))
        except UserError as error:
            if not spec.skip_unreadable:
                raise UserError(f"{error}; or leave it out with skip_unreadable=true") from error
            left_out.append(index)
    if not images:
        raise UserError(f"none of the images of {block} of '{spec.images}' can be read; copy them again")
    return ReadBlock(torch.stack(images), tuple(left_out))


def image_at(spec: SetSpec, index: int) -> np.ndarray:
    """Image `index` of a set, uint8 [H, W, C]."""
    return _pixels(opened(spec.images, spec.sha256), index, spec.resolution).permute(1, 2, 0).numpy()


def name_at(spec: SetSpec, index: int) -> str:
    """The name of image `index` in its set."""
    return opened(spec.images, spec.sha256).names[index]


def labels_of(spec: SetSpec) -> tuple[list[int], list[str]] | None:
    """The class of each image, and the names of the classes; None where the set has none."""
    folders = [PurePath(name).parent.as_posix() for name in opened(spec.images, spec.sha256).names]
    names = sorted(set(folders))
    if len(names) < 2 or all(PurePath(name).name.isdigit() for name in names):
        return None
    number = {name: index for index, name in enumerate(names)}
    return [number[folder] for folder in folders], names


def first_of_set(spec: SetSpec, count: int) -> np.ndarray | None:
    """Its first readable images, uint8 [N, H, W, C]; None where they are not here."""
    try:
        source = opened(spec.images, spec.sha256)
        images = [_pixels(source, index, spec.resolution) for index in range(min(count, len(source)))]
    except UserError:
        return None
    return torch.stack(images).permute(0, 2, 3, 1).numpy()


def with_findings(spec: SetSpec, left_out: list[int]) -> tuple[SetSpec, dict[str, Any]]:
    """The spec of the images that were read, and what a record says of the others."""
    if not left_out:
        return spec, {}
    names = opened(spec.images, spec.sha256).names
    kept = [name for index, name in enumerate(names) if index not in set(left_out)]
    spec = dataclasses.replace(spec, numbers="", names_sha256=_names_sha256(kept))
    return spec, {"unreadable": [names[index] for index in left_out]}


def _pixels(source: ImageSource, index: int, resolution: int | None) -> Tensor:
    image = source.read(index)
    if resolution is not None:
        return center_crop(image, resolution)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _numbers(names: Sequence[str]) -> str:
    """FIRST-LAST where the names are consecutive whole numbers, after one prefix that all have; else ""."""
    found = [re.fullmatch(r"(.*?)([0-9]{1,18})", PurePath(name).stem) for name in names]
    if not all(found) or len({match[1] for match in found if match}) != 1:
        return ""
    numbers = [int(match[2]) for match in found if match]
    first, last = numbers[0], numbers[-1]
    return f"{first}-{last}" if numbers == list(range(first, last + 1)) else ""


def _names_sha256(names: Sequence[str]) -> str:
    stems = [PurePath(name).with_suffix("").as_posix() for name in names]
    return hashlib.sha256(json.dumps(stems).encode()).hexdigest()
