"""Features of finished chunks of images on disk, and whether they are of the images that are there now."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.files import write_atomic, writing
from erk_bench.evaluation.frechet import FeatureSums
from erk_bench.evaluation.image_files import SHOWN, visible
from erk_bench.evaluation.image_source import ImageSource
from erk_bench.evaluation.reference_files import Real

MAX_THREADS = 8  # of decoding; more do not help, Pillow holds the interpreter for part of the work
# Beside the features in a part file; no detector has such a name.
DIGESTS, STAMPS = "images.sha256", "images.stamps"
CONTENT = "content_sha256"  # of all images' digests, in a reference's facts


class Chunk(NamedTuple):
    """Images first .. first + len(images) - 1 of the chosen ones, as indices of the source."""

    number: int
    images: Sequence[int]


def check_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with `path`, which was made with the settings `found`."""
    titles = {"names_sha256": "list of images (sha256)", "num_images": "number of images"}
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(
                f"'{path}' was made with another {titles.get(name, name)}: {found.get(name, 'none')}, now "
                f"{value}; repeat the earlier settings, remove '{path}', or choose another name for the "
                "reference"
            )


def check_content(out: Path, found: Mapping[str, Any], source: ImageSource, chosen: Sequence[int]) -> None:
    """Refuse a reference whose images have been replaced under the same names."""
    if found.get(CONTENT) != content_sha256(_digests(source, chosen)):
        what = "whose content changed since" if CONTENT in found else "without a record of their content"
        raise UserError(
            f"'{out}' was made from images of these names in '{source.place}' {what}; remove '{out}' to make "
            "it anew, or choose another name for the reference"
        )


def open_parts(parts: Path, identity: Mapping[str, Any]) -> None:
    """Make the folder of part files, or check that the one there belongs to the same settings."""
    settings = parts / "settings.json"
    if settings.is_file():
        check_same(parts, _read_settings(settings), identity)
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


def remove_parts(parts: Path, identity: Mapping[str, Any]) -> None:
    """Remove the part files if they belong to these settings."""
    settings = parts / "settings.json"
    if settings.is_file() and _read_settings(settings) == identity:
        with writing(parts):
            shutil.rmtree(parts)


def part_path(parts: Path, chunk: Chunk) -> Path:
    """The file of a chunk's features."""
    return parts / f"{chunk.number:06d}.safetensors"


def missing_chunks(
    parts: Path, chunks: Sequence[Chunk], source: ImageSource, tell: Callable[[str], None]
) -> list[Chunk]:
    """The chunks that have no part file, or one of images that changed since, which is told."""
    missing, changed = [], list[int]()
    for chunk in chunks:
        path = part_path(parts, chunk)
        if not path.is_file():
            missing.append(chunk)
            continue
        if torch.equal(_load_part(path, STAMPS), stamps_sha256(source, chunk)):
            continue
        # Moved or touched, or really another image: the content tells.
        rows = (_kept_digests(path, chunk) != _digests(source, chunk.images)).any(1)
        if rows.any():
            missing.append(chunk)
            changed += [chunk.images[row] for row in torch.nonzero(rows).flatten()]
    if changed:
        names = ", ".join(visible(source.names[index]) for index in changed[:SHOWN])
        tell(
            f"{len(changed)} images of '{source.place}' changed since the job was stopped ({names}"
            f"{', ...' if changed[SHOWN:] else ''}); their parts are made anew"
        )
    return missing


def collect(parts: Path, chunks: Sequence[Chunk], name: str, count: int, keep_features: bool) -> Real:
    """Statistics, and features if wanted, of one detector from all part files, in order."""
    features: Tensor | None = None
    sums: FeatureSums | None = None
    done = 0
    for chunk in chunks:
        part = _read_part(part_path(parts, chunk), name, len(chunk.images), sums)
        sums = FeatureSums.of(part) if sums is None else sums + FeatureSums.of(part)
        if keep_features:
            if features is None:
                features = torch.empty(count, part.shape[1])
            features[done : done + len(part)] = part
        done += len(part)
    assert sums is not None  # there are at least two images
    return Real(sums.stats(), features)


def _read_part(path: Path, name: str, count: int, sums: FeatureSums | None) -> Tensor:
    features = _load_part(path, name)
    if features.ndim != 2 or len(features) != count or (sums and features.shape[1] != len(sums.total)):
        raise UserError(
            f"part file '{path}' holds features {list(features.shape)} of '{name}'; expected {count} rows "
            "as wide as in the other parts: remove it and run the same command again"
        )
    return features


def _load_part(path: Path, name: str) -> Tensor:
    """One tensor of a part file; the others are not read."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"part file '{path}' cannot be read ({error}); remove it and run the same command again"
        ) from error


def _kept_digests(path: Path, chunk: Chunk) -> Tensor:
    digests = _load_part(path, DIGESTS)
    if digests.shape != (len(chunk.images), 32):
        raise UserError(
            f"part file '{path}' is of {len(digests)} images, not {len(chunk.images)}; remove it and run the "
            "same command again"
        )
    return digests


def _digests(source: ImageSource, images: Sequence[int]) -> Tensor:
    """sha256 of the images' files, uint8 [N, 32]."""
    with ThreadPoolExecutor(num_threads(), "hash") as pool:
        return torch.stack([as_row(digest) for digest in pool.map(source.sha256, images)])


def kept_content_sha256(parts: Path, chunks: Sequence[Chunk]) -> str:
    """Of the images that the part files were made from."""
    return content_sha256(torch.cat([_kept_digests(part_path(parts, chunk), chunk) for chunk in chunks]))


def content_sha256(digests: Tensor) -> str:
    """One for the digests of all images, uint8 [N, 32]."""
    return hashlib.sha256(digests.numpy().tobytes()).hexdigest()


def stamps_sha256(source: ImageSource, chunk: Chunk) -> Tensor:
    """One for the stamps of the chunk's images, uint8 [32]."""
    stamps = [source.stamps[index] for index in chunk.images] if source.stamps else []
    return as_row(hashlib.sha256(json.dumps(stamps).encode()).digest())


def as_row(digest: bytes) -> Tensor:
    """A digest as uint8 tensor."""
    return torch.frombuffer(bytearray(digest), dtype=torch.uint8)


def num_threads() -> int:
    """That read images."""
    return min(MAX_THREADS, os.cpu_count() or 1)
