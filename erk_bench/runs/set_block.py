"""Sets of images that something else made: what is known of their files, and the images of a block."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.decoded_blocks import DecodedBlocks
from erk_bench.evaluation.image_set import (
    ChangedError,
    ImageSet,
    check_readable,
    check_sizes,
    names_sha256,
    open_set,
    reading_threads,
)
from erk_bench.runs.blocks import Block, Worker
from erk_bench.spec import SetSpec

INDEXES = ".sets"  # in the folder of all runs: what a first pass over the files of sets has found


class ReadBlock(NamedTuple):
    """uint8 images [B, 3, H, W] of a block of a set, and the places of those that could not be read."""

    images: Tensor
    left_out: tuple[int, ...]


def open_for(
    place: str, out: str, resolution: int | None, advance: Callable[[int], None] = lambda count: None
) -> ImageSet:
    """The set at a place; what the first pass over its files finds is kept in the folder of all runs."""
    cache = Path(out).expanduser() / INDEXES
    return open_set(place, resolution=resolution, cache=cache, advance=advance)


def describe(images: ImageSet, *, skip_unreadable: bool) -> dict[str, Any]:
    """Fields of a SetSpec that its files decide, by name.

    Raises UserError for images that cannot be read, unless they are left out, and for several sizes.
    """
    check_readable(images, skip_unreadable=skip_unreadable)
    height, width = check_sizes(images)
    return {
        "sha256": images.content_sha256,
        "height": height,
        "width": width,
        "numbers": images.numbers,
        "names_sha256": images.names_sha256,
    }


def opened(spec: SetSpec) -> ImageSet:
    """The set of a spec, opened once a process. Raises ChangedError where its content is another by now."""
    return _opened(spec.images, spec.out, spec.resolution, spec.sha256)


@functools.lru_cache(maxsize=8)
def _opened(place: str, out: str, resolution: int | None, sha256: str) -> ImageSet:
    images = open_for(place, out, resolution)
    if images.content_sha256 != sha256:
        raise ChangedError(
            f"'{place}' has changed since this command began; run it again when nothing writes to it"
        )
    return images


@functools.lru_cache(maxsize=4)
def _decoder(
    place: str, out: str, resolution: int | None, sha256: str, skip_unreadable: bool, threads: int
) -> DecodedBlocks:
    images = _opened(place, out, resolution, sha256)
    return DecodedBlocks(images, threads=threads, skip_unreadable=skip_unreadable)


def _blocks(spec: SetSpec, worker: Worker) -> DecodedBlocks:
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or worker.world_size)
    threads = reading_threads(min(here, os.cpu_count() or 1))
    return _decoder(spec.images, spec.out, spec.resolution, spec.sha256, spec.skip_unreadable, threads)


def read_ahead(spec: SetSpec, block: Block, worker: Worker) -> None:
    """Let threads decode a block that `read_block` will ask for soon."""
    _blocks(spec, worker).ahead(_places(spec, block))


def read_block(spec: SetSpec, block: Block, worker: Worker) -> ReadBlock:
    """The images of a block. Raises UserError for one that cannot be read, unless such are left out."""
    try:
        found = _blocks(spec, worker).read(_places(spec, block))
    except ChangedError:
        raise
    except UserError as error:
        raise UserError(f"{error}; or leave such images out with skip_unreadable=true") from error
    if not found.positions:
        raise UserError(f"none of the images of {block} of '{spec.images}' can be read; copy them again")
    return ReadBlock(found.pixels, tuple(sorted(found.left_out)))


def _places(spec: SetSpec, block: Block) -> range:
    return range(block.seeds[0], min(block.seeds[-1] + 1, spec.num_images))


def image_at(spec: SetSpec, index: int) -> np.ndarray:
    """Image `index` of a set, uint8 [H, W, C]."""
    return opened(spec).pixels(index).permute(1, 2, 0).numpy()


def name_at(spec: SetSpec, index: int) -> str:
    """The name of image `index` in its set."""
    return opened(spec).names[index]


def labels_of(spec: SetSpec) -> tuple[list[int], Sequence[str]] | None:
    """The class of each image, and the names of the classes; None where the set has none."""
    images = opened(spec)
    if images.labels is None:
        return None
    labels = images.labels.tolist()
    names = images.class_names or [str(label) for label in range(max(labels) + 1)]
    return labels, names


def first_of_set(spec: SetSpec, count: int) -> np.ndarray | None:
    """Its first images, uint8 [N, H, W, C]; None where they are not here, or not all can be read."""
    try:
        return np.stack([image_at(spec, index) for index in range(min(count, spec.num_images))])
    except UserError:
        return None


def with_findings(spec: SetSpec, left_out: Sequence[int]) -> tuple[SetSpec, dict[str, Any]]:
    """The spec of the images that were read, and what a record says of the set."""
    images, found = opened(spec), dict[str, Any]()
    if copies := images.duplicates().number:
        found["duplicates"] = copies
    if left_out:
        gone = set(left_out)
        kept = [name for index, name in enumerate(images.names) if index not in gone]
        spec = dataclasses.replace(spec, numbers="", names_sha256=names_sha256(kept))
        found["unreadable"] = [images.names[index] for index in left_out]
    return spec, found
