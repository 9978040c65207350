"""Sets of images that something else made: what is known of their files, and the images of a block."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.image_set import open_set
from erk_bench.runs.blocks import Block
from erk_bench.runs.device import Place
from erk_bench.spec import SetSpec


class ReadBlock(NamedTuple):
    """uint8 images [B, 3, H, W] of a block of a set, and the places of those that could not be read."""

    images: Tensor
    left_out: tuple[int, ...]


@functools.lru_cache(maxsize=8)
def opened(place, out=None):
    return open_set(place)


def read_block(spec: SetSpec, block: Block, place: Place) -> ReadBlock:
    s = opened(spec.images)
    rows, left = [], []
    for i in block.seeds:
        if i >= len(s):
            break
        try:
            rows.append(s.pixels(i, spec.resolution))
        except UserError as error:
            if not spec.skip_unreadable:
                raise UserError(f"{error}, or leave such images out with skip_unreadable=true") from error
            left.append(i)
    return ReadBlock(torch.stack(rows), tuple(left))


def describe(place, out, resolution):
    s = opened(place)
    first = s.pixels(0, resolution)
    stems = [Path(n).stem for n in s.names]
    return {
        "sha256": hashlib.sha256(
            "".join(map(repr, (s.src.sha256(i) for i in range(len(s))))).encode()
        ).hexdigest(),
        "height": first.shape[1],
        "width": first.shape[2],
        "numbers": "",
        "names_sha256": hashlib.sha256(repr(stems).encode()).hexdigest(),
    }


def with_findings(spec: SetSpec, left_out):
    return spec, {"unreadable": [opened(spec.images).names[i] for i in left_out]} if left_out else {}
