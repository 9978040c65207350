"""One pass over a set: digests and sizes, and which images cannot be read; kept for the next time."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.files import write_atomic
from erk_bench.evaluation.image_source import ImageSource

AT_A_TIME = 1024  # images handed to the threads
SAVE_EVERY_S = 60.0
KEY, DIGEST = 16, 32  # bytes


class Survey(NamedTuple):
    """digests: sha256 of the images' bytes, uint8 [N, 32]. sizes: (height, width), int64 [N, 2].

    problems: why an image cannot be read, by index; its size is 0, 0. kept: the file that keeps the rest.
    """

    digests: Tensor
    sizes: Tensor
    problems: dict[int, str]
    kept: Path | None


def survey(
    source: ImageSource, *, cache: Path | None, threads: int, advance: Callable[[int], None]
) -> Survey:
    """Read each image once, several at a time. advance: called with the number of images just finished.

    cache: folder that keeps what was found; an image whose stamp is the same is not read again, also after
    a pass that was stopped. Images that cannot be read are tried again.
    Raises UserError where the cache cannot be written.
    """
    count = len(source)
    found = Survey(
        torch.zeros(count, DIGEST, dtype=torch.uint8),
        torch.zeros(count, 2, dtype=torch.int64),
        {},
        None if cache is None else cache / _file_name(source),
    )
    keys = [_key(source, index) for index in range(count)]
    done = _load(found, keys)
    waiting = [index for index in range(count) if not done[index]]
    advance(count - len(waiting))

    def examine(index: int) -> None:
        try:
            digest, height, width = source.examined(index)
        except UserError as error:
            found.problems[index] = str(error)
            return
        found.digests[index] = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
        found.sizes[index, 0], found.sizes[index, 1] = height, width
        done[index] = True

    saved = time.monotonic()
    pool = ThreadPoolExecutor(threads, "survey")
    try:
        for first in range(0, len(waiting), AT_A_TIME):
            some = waiting[first : first + AT_A_TIME]
            for _ in pool.map(examine, some):
                advance(1)
            if time.monotonic() - saved > SAVE_EVERY_S:
                _save(found, keys, done)
                saved = time.monotonic()
    finally:
        pool.shutdown(cancel_futures=True)
        if waiting:
            _save(found, keys, done)
    return found


def _file_name(source: ImageSource) -> str:
    place = os.path.abspath(source.place)  # noqa: PTH100 - a pattern, perhaps
    return f"images-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}.safetensors"


def _key(source: ImageSource, index: int) -> bytes:
    """Of an image and its stamp."""
    facts = json.dumps([source.names[index], source.stamps[index] if source.stamps else index])
    return hashlib.blake2b(facts.encode(), digest_size=KEY).digest()


def _load(found: Survey, keys: list[bytes]) -> list[bool]:
    """Fill in what the file of an earlier pass knows; returns which images it knows."""
    if found.kept is None or not found.kept.is_file():
        return [False] * len(keys)
    try:
        tensors = tensors_of(found.kept.read_bytes())
        names, digests, sizes = tensors["keys"], tensors["digests"], tensors["sizes"]
        count = len(names)
        if names.shape != (count, KEY) or digests.shape != (count, DIGEST) or sizes.shape != (count, 2):
            raise ValueError("tensors that do not fit")
    except (SafetensorError, OSError, ValueError, KeyError):
        return [False] * len(keys)  # it is made anew
    raw = names.to(torch.uint8).numpy().tobytes()
    rows = {raw[KEY * row : KEY * (row + 1)]: row for row in range(count)}
    known = [rows.get(key, -1) for key in keys]
    mine = torch.tensor([index for index, row in enumerate(known) if row >= 0], dtype=torch.int64)
    theirs = torch.tensor([row for row in known if row >= 0], dtype=torch.int64)
    found.digests[mine] = digests[theirs].to(torch.uint8)
    found.sizes[mine] = sizes[theirs].to(torch.int64)
    return [row >= 0 for row in known]


def _save(found: Survey, keys: list[bytes], done: list[bool]) -> None:
    if found.kept is None:
        return
    rows = [index for index, known in enumerate(done) if known]
    raw = np.frombuffer(b"".join(keys[row] for row in rows), np.uint8).reshape(-1, KEY)
    content = {
        "keys": torch.tensor(raw),
        "digests": found.digests[rows],
        "sizes": found.sizes[rows],
    }
    write_atomic(found.kept, safetensors_bytes(content))
