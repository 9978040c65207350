"""Makes a reference from real images: each is read once, and its features go to disk before the statistics.

Features of finished chunks of images are kept in OUT.parts until the reference is written, so that a run
that stops goes on where it was. Statistics are summed from these files in order, in float64, by one reader:
the reference has the same bytes whether the run stopped or not. The parts hold features even where only
statistics are wanted: 1000 images of Inception features are 8 MB, the sums over them would be 34 MB.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.files import write_atomic
from erk_bench.evaluation.extract import Extract
from erk_bench.evaluation.image_files import SHOWN, visible
from erk_bench.evaluation.image_source import ImageSource
from erk_bench.evaluation.real_images import center_crop
from erk_bench.evaluation.reference_files import read_facts, write_reference
from erk_bench.evaluation.reference_parts import (
    CONTENT,
    DIGESTS,
    STAMPS,
    Chunk,
    as_row,
    check_content,
    check_same,
    collect,
    kept_content_sha256,
    missing_chunks,
    num_threads,
    open_parts,
    part_path,
    remove_parts,
    stamps_sha256,
)

CHUNK = 1000  # images a part file


class _Decoded(NamedTuple):
    """pixels: uint8 CHW. sha256: of the file, uint8 [32]."""

    pixels: Tensor
    sha256: Tensor


def make_reference(
    source: ImageSource,
    resolution: int,
    extractors: Mapping[str, Extract],
    keys: Mapping[str, str],
    out: Path,
    *,
    keep_features: bool,
    limit: int | None,
    batch: int,
    advance: Callable[[int], None],
    shuffle_seed: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the reference of `source`, centre-cropped to `resolution`, to `out` (.safetensors).

    extractors: by detector name, uint8 [B, 3, R, R] -> {"features": [B, D], ...}. keys: name and hash of each
    detector's weights, written down. keep_features: also keep the features, as precision, recall and KID
    need. limit: take so many images only, the first ones in the source's order. ImageNet is sorted by class,
    so these would be of few classes: shuffle_seed chooses them at random instead (same seed, same images).
    batch: images at a time; other sizes move features by rounding only. advance: called with the number of
    images just finished, those of an earlier, stopped run included.

    Stopped and called again, it goes on after the last finished part file; parts of images that have changed
    since are made anew, and `tell` is given a line that says so. Called again when all is done, it reads the
    images again and does nothing more.
    Raises UserError for settings that do not fit, an `out` that was made with other settings or from images
    of other content, parts that were made with other settings, too few images, an image that cannot be
    read, and features that are not finite.
    """
    _check_settings(resolution, extractors, keys, out, batch)
    chosen = _choose(source, limit, shuffle_seed)
    identity = {
        "detectors": dict(keys),
        "num_images": len(chosen),
        "resolution": resolution,
        "names_sha256": _names_sha256(source, chosen),
    }
    # Only the last name of the place: the same images in another folder make the same reference.
    place = Path(source.place).resolve().name
    facts = {**identity, "features": keep_features, "shuffle_seed": shuffle_seed, "source": place}
    parts = out.with_name(out.name + ".parts")
    if out.exists():
        found = read_facts(out)
        check_same(out, found, {**identity, "features": keep_features})
        check_content(out, found, source, chosen)
        advance(len(chosen))
        remove_parts(parts, identity)
        return
    open_parts(parts, identity)
    chunks = [
        Chunk(number, chosen[first : first + CHUNK])
        for number, first in enumerate(range(0, len(chosen), CHUNK))
    ]
    missing = missing_chunks(parts, chunks, source, tell)
    done = len(chosen) - sum(len(chunk.images) for chunk in missing)
    if done:
        advance(done)
    with _decoded(source, missing, resolution, ahead=2 * batch) as images:
        for chunk in missing:
            features = _extract(source, chunk, images, extractors, batch, advance)
            features[STAMPS] = stamps_sha256(source, chunk)
            write_atomic(part_path(parts, chunk), safetensors_bytes(features))
    reals = {name: collect(parts, chunks, name, len(chosen), keep_features) for name in extractors}
    write_reference(out, reals, {**facts, CONTENT: kept_content_sha256(parts, chunks)})
    remove_parts(parts, identity)


def _check_settings(
    resolution: int, extractors: Mapping[str, Extract], keys: Mapping[str, str], out: Path, batch: int
) -> None:
    if resolution < 1 or batch < 1:
        raise UserError(f"resolution is {resolution} and batch is {batch}; both must be at least 1")
    if not extractors or set(extractors) != set(keys):
        raise UserError(
            f"extractors are {sorted(extractors)} but keys are given for {sorted(keys)}; give one of "
            "each for every detector, and at least one detector"
        )
    if out.suffix != ".safetensors":
        raise UserError(f"reference '{out}' must end in .safetensors, the format that is written")


def _choose(source: ImageSource, limit: int | None, shuffle_seed: int | None) -> list[int]:
    """Indices of the images to use, ascending."""
    count = len(source) if limit is None else limit
    if count > len(source):
        raise UserError(
            f"limit is {limit} but '{source.place}' has only {len(source)} images; lower it or give "
            "more images"
        )
    if count < 2:
        raise UserError(
            f"{count} images of '{source.place}' give no covariance; use at least 2, and for a reference "
            "worth comparing to several times as many as a detector has features"
        )
    if shuffle_seed is None:
        return list(range(count))
    if not 0 <= shuffle_seed < 2**32:
        raise UserError(f"shuffle_seed is {shuffle_seed}; it must be between 0 and {2**32 - 1}")
    # RandomState, whose streams numpy has promised never to change. Ascending, so that disks read forward.
    return sorted(np.random.RandomState(shuffle_seed).permutation(len(source))[:count].tolist())


def _names_sha256(source: ImageSource, chosen: Sequence[int]) -> str:
    return hashlib.sha256(json.dumps([source.names[index] for index in chosen]).encode()).hexdigest()


@contextmanager
def _decoded(
    source: ImageSource, chunks: Sequence[Chunk], resolution: int, ahead: int
) -> Iterator[Iterator[_Decoded]]:
    """The images of the chunks one after the other; threads decode up to `ahead` in advance."""

    def load(index: int) -> _Decoded:
        image, digest = source.read_hashed(index)
        return _Decoded(center_crop(image, resolution), as_row(digest))

    def images() -> Iterator[_Decoded]:
        pending: deque[Future[_Decoded]] = deque()
        for chunk in chunks:
            for index in chunk.images:
                pending.append(pool.submit(load, index))
                if len(pending) > ahead:
                    yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    pool = ThreadPoolExecutor(num_threads(), "decode")
    try:
        yield images()
    finally:
        pool.shutdown(cancel_futures=True)


def _extract(
    source: ImageSource,
    chunk: Chunk,
    images: Iterator[_Decoded],
    extractors: Mapping[str, Extract],
    batch: int,
    advance: Callable[[int], None],
) -> dict[str, Tensor]:
    """Features [len(chunk), D] by detector, float32, and the files' DIGESTS; moves `images` on by a chunk."""
    rows: dict[str, list[Tensor]] = {name: [] for name in (*extractors, DIGESTS)}
    for first in range(0, len(chunk.images), batch):
        indices = chunk.images[first : first + batch]
        decoded = list(itertools.islice(images, len(indices)))
        stack = torch.stack([image.pixels for image in decoded])
        rows[DIGESTS].append(torch.stack([image.sha256 for image in decoded]))
        for name, extract in extractors.items():
            features = extract(stack)["features"].detach().to("cpu", torch.float32)
            if features.ndim != 2 or len(features) != len(stack):
                raise UserError(
                    f"detector '{name}' gives features {list(features.shape)} for {len(stack)} images; "
                    f"expected [{len(stack)}, D]: correct the detector"
                )
            bad = [source.names[indices[row]] for row in torch.nonzero(~features.isfinite().all(1)).flatten()]
            if bad:
                names = ", ".join(map(visible, bad[:SHOWN])) + (", ..." if bad[SHOWN:] else "")
                raise UserError(
                    f"detector '{name}' gives features that are not finite for {len(bad)} images: {names}; "
                    "look at them, and try the detector in float32"
                )
            rows[name].append(features)
        advance(len(indices))
    return {name: torch.cat(parts) for name, parts in rows.items()}
