"""The images of a record's first seeds: those that its run keeps, else drawn anew."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.base.progress import progress_bar
from erk_bench.commands.actions.table import first_images
from erk_bench.reporting.site.content import SiteRecord, Strip
from erk_bench.runs.device import Place
from erk_bench.runs.sample_block import sample_block
from erk_bench.spec import PROTOCOL, RunSpec, Spec

KEPT = 8  # images shown of each record, where they are kept
LARGEST = 256  # pixels on a side; larger images are made smaller


def strips_of(records: Sequence[SiteRecord], samples: int | None) -> Mapping[str, Strip]:
    """The strip of each record's first seeds by its page; without those whose images nobody has.

    samples: how many seeds, also drawn anew; None shows those that are kept only.
    """
    count = KEPT if samples is None else samples
    if count == 0:
        return {}
    found: dict[str, Strip] = {}
    drawn: dict[tuple[str, range], Strip | None] = {}
    todo: dict[str, tuple[RunSpec, range]] = {}
    for record in records:
        seeds = record.source.seed_range[:count]
        images = _kept(record, count)
        if images is not None:
            found[record.id] = strip(images, seeds)
        elif samples and isinstance(record.source, RunSpec) and record.record.protocol == PROTOCOL:
            todo[record.id] = record.source, seeds
    keys = {page: (spec.run_id, seeds) for page, (spec, seeds) in todo.items()}
    total = len(set(keys.values()))
    with progress_bar("drawing samples", total, total, shown=bool(total), unit="runs") as bar:
        for page, (spec, seeds) in todo.items():
            if keys[page] not in drawn:
                drawn[keys[page]] = _drawn(spec, seeds)
                bar(1, 1)
    return found | {page: made for page, key in keys.items() if (made := drawn[key]) is not None}


def _kept(record: SiteRecord, count: int) -> np.ndarray | None:
    """The images that the record's own run keeps, uint8 [N, H, W, C]."""
    source: Spec = record.source
    for out in (record.folder, source.out):  # a folder of runs may have been moved
        try:
            images = first_images(dataclasses.replace(source, out=out), count)
        except UserError:  # damaged, or a run of other settings
            continue
        if images is not None:
            return images
    return None


def _drawn(spec: RunSpec, seeds: range) -> Strip | None:
    """The images of the seeds, sampled here; None where a network is missing or the run has foreign code."""
    assets = Assets.from_environment(offline=True)
    if spec.own_code or not all(assets.is_here(weights.path) for weights in spec.weights):
        return None
    try:
        block = sample_block(spec, seeds, Place.of(dataclasses.replace(spec, offline=True))).host()
    except UserError:  # drawn on a GPU that is not here, say
        return None
    return strip(block.images.permute(0, 2, 3, 1).numpy(), seeds)


def strip(images: np.ndarray, seeds: Sequence[int]) -> Strip:
    """images: uint8 [N, H, W, C], side by side as one PNG file."""
    _, height, width, channels = images.shape
    joined = np.concatenate(list(images), axis=1)
    picture = Image.fromarray(joined[..., 0] if channels == 1 else joined)
    shrink = max(height, width) / LARGEST
    if shrink > 1:
        width, height = round(width / shrink), round(height / shrink)
        picture = picture.resize((width * len(images), height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return Strip(buffer.getvalue(), tuple(seeds)[: len(images)], (width, height))
