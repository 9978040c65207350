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
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from erk_bench.errors import UserError
from erk_bench.evaluation.frechet import FeatureSums
from erk_bench.evaluation.real_images import ImageSource, center_crop
from erk_bench.evaluation.references import Real, read_facts, write_reference
from erk_bench.files import write_atomic, writing

CHUNK = 1000  # images a part file
MAX_THREADS = 8  # of decoding; more do not help, Pillow holds the interpreter for part of the work
SHOWN = 3  # images that an error names

Extract = Callable[[Tensor], dict[str, Tensor]]


class _Chunk(NamedTuple):
    """Images first .. first + len(images) - 1 of the chosen ones, as indices of the source."""

    number: int
    images: Sequence[int]


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
) -> None:
    """Write the reference of `source`, centre-cropped to `resolution`, to `out` (.safetensors).

    extractors: by detector name, uint8 [B, 3, R, R] -> {"features": [B, D], ...}. keys: name and hash of each
    detector's weights, written down. keep_features: also keep the features, as precision, recall and KID
    need. limit: take so many images only, the first ones in the source's order. ImageNet is sorted by class,
    so these would be of few classes: shuffle_seed chooses them at random instead (same seed, same images).
    batch: images at a time; other sizes move features by rounding only. advance: called with the number of
    images just finished, those of an earlier, stopped run included.

    Stopped and called again, it goes on after the last finished part file; called again when all is done, it
    does nothing. Images are told apart by their names, not their content.
    Raises UserError for settings that do not fit, an `out` or parts that were made with other
    settings, too few images, an image that cannot be read, and features that are not finite.
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
        _check_same(out, read_facts(out), {**identity, "features": keep_features})
        advance(len(chosen))
        _remove(parts, identity)
        return
    _open_parts(parts, identity)
    chunks = [
        _Chunk(number, chosen[first : first + CHUNK])
        for number, first in enumerate(range(0, len(chosen), CHUNK))
    ]
    missing = [chunk for chunk in chunks if not _part(parts, chunk).is_file()]
    done = len(chosen) - sum(len(chunk.images) for chunk in missing)
    if done:
        advance(done)
    with _decoded(source, missing, resolution, ahead=2 * batch) as images:
        for chunk in missing:
            features = _extract(source, chunk, images, extractors, batch, advance)
            write_atomic(_part(parts, chunk), safetensors_bytes(features))
    reals = {name: _collect(parts, chunks, name, len(chosen), keep_features) for name in extractors}
    write_reference(out, reals, facts)
    _remove(parts, identity)


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


def _check_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with `path`, which was made with the settings `found`."""
    titles = {"names_sha256": "list of images (sha256)", "num_images": "number of images"}
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(
                f"'{path}' was made with another {titles.get(name, name)}: {found.get(name, 'none')}, now "
                f"{value}; repeat the earlier settings, remove '{path}', or choose another name for the "
                "reference"
            )


def _open_parts(parts: Path, identity: Mapping[str, Any]) -> None:
    """Make the folder of part files, or check that the one there belongs to the same settings."""
    settings = parts / "settings.json"
    if settings.is_file():
        _check_same(parts, _read_settings(settings), identity)
    elif parts.exists() and (not parts.is_dir() or any(parts.iterdir())):
        raise UserError(
            f"'{parts}' is in the way and no folder of part files; move it, or choose another name"
        )
    else:
        write_atomic(settings, json.dumps(identity, sort_keys=True).encode())


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}' ({error}); remove the folder '{path.parent}'") from error
    return content if isinstance(content, dict) else {}


def _remove(parts: Path, identity: Mapping[str, Any]) -> None:
    """Remove the part files if they belong to these settings."""
    settings = parts / "settings.json"
    if settings.is_file() and _read_settings(settings) == identity:
        with writing(parts):
            shutil.rmtree(parts)


def _part(parts: Path, chunk: _Chunk) -> Path:
    return parts / f"{chunk.number:06d}.safetensors"


@contextmanager
def _decoded(
    source: ImageSource, chunks: Sequence[_Chunk], resolution: int, ahead: int
) -> Iterator[Iterator[Tensor]]:
    """The images of the chunks one after the other, uint8 CHW; threads decode up to `ahead` in advance."""

    def load(index: int) -> Tensor:
        return center_crop(source.read(index), resolution)

    def images() -> Iterator[Tensor]:
        pending: deque[Future[Tensor]] = deque()
        for chunk in chunks:
            for index in chunk.images:
                pending.append(pool.submit(load, index))
                if len(pending) > ahead:
                    yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1), "decode")
    try:
        yield images()
    finally:
        pool.shutdown(cancel_futures=True)


def _extract(
    source: ImageSource,
    chunk: _Chunk,
    images: Iterator[Tensor],
    extractors: Mapping[str, Extract],
    batch: int,
    advance: Callable[[int], None],
) -> dict[str, Tensor]:
    """Features [len(chunk), D] by detector, float32; `images` is moved on by one chunk."""
    rows: dict[str, list[Tensor]] = {name: [] for name in extractors}
    for first in range(0, len(chunk.images), batch):
        indices = chunk.images[first : first + batch]
        stack = torch.stack(list(itertools.islice(images, len(indices))))
        for name, extract in extractors.items():
            features = extract(stack)["features"].detach().to("cpu", torch.float32)
            if features.ndim != 2 or len(features) != len(stack):
                raise UserError(
                    f"detector '{name}' gives features {list(features.shape)} for {len(stack)} images; "
                    f"expected [{len(stack)}, D]: correct the detector"
                )
            bad = [source.names[indices[row]] for row in torch.nonzero(~features.isfinite().all(1)).flatten()]
            if bad:
                raise UserError(
                    f"detector '{name}' gives features that are not finite for {len(bad)} images: "
                    f"{', '.join(bad[:SHOWN])}{', ...' if len(bad) > SHOWN else ''}; look at them, and try "
                    "the detector in float32"
                )
            rows[name].append(features)
        advance(len(indices))
    return {name: torch.cat(parts) for name, parts in rows.items()}


def _collect(parts: Path, chunks: Sequence[_Chunk], name: str, count: int, keep_features: bool) -> Real:
    """Statistics, and features if wanted, of one detector from all part files, in order."""
    features: Tensor | None = None
    sums: FeatureSums | None = None
    for chunk in chunks:
        part = _read_part(_part(parts, chunk), name, len(chunk.images), sums)
        sums = FeatureSums.of(part) if sums is None else sums + FeatureSums.of(part)
        if keep_features:
            if features is None:
                features = torch.empty(count, part.shape[1])
            first = chunk.number * CHUNK
            features[first : first + len(part)] = part
    assert sums is not None  # there are at least two images
    return Real(sums.stats(), features)


def _read_part(path: Path, name: str, count: int, sums: FeatureSums | None) -> Tensor:
    try:
        features = load_file(path)[name]
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(
            f"part file '{path}' cannot be read ({error}); remove it and run the same command again"
        ) from error
    if features.ndim != 2 or len(features) != count or (sums and features.shape[1] != len(sums.total)):
        raise UserError(
            f"part file '{path}' holds features {list(features.shape)} of '{name}'; expected {count} rows "
            "as wide as in the other parts: remove it and run the same command again"
        )
    return features
