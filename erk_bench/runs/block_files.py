"""A block's file: tensors and facts as safetensors, under one checksum of the whole file.

The checksum, 64 hex digits in the header, is the sha256 of the file with zeros in its place: no bit of the
file can change unnoticed. Files of earlier versions have a checksum of their tensors alone, and are checked
by that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save
from torch import Tensor

CHECKSUM = "file_sha256"
EARLIER_CHECKSUM = "sha256"  # of the tensors alone
ZEROS = b"0" * 64


class DamagedFile(ValueError):  # noqa: N818 - its readers turn it into an error
    """The bytes are no such block; the message says why."""


def block_bytes(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """The bytes of a block file; the same for the same content."""
    plain = {name: value.cpu().contiguous() for name, value in tensors.items()}
    # One metadata key: safetensors does not keep the order of several, and bytes must repeat.
    meta = json.dumps({CHECKSUM: ZEROS.decode(), **facts}, sort_keys=True)
    raw = safetensors_save(plain, {"erk_bench": meta})
    place = raw.index(ZEROS)
    return b"".join((raw[:place], hashlib.sha256(raw).hexdigest().encode(), raw[place + len(ZEROS) :]))


def parse_block(raw: bytes, expected: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a block file. Raises DamagedFile unless it is whole and has the expected facts."""
    try:
        meta = block_facts(raw)
        wanted = dict(expected)
        if CHECKSUM in meta:
            wanted[CHECKSUM] = _checksum(raw, meta[CHECKSUM])
            tensors = {}
        else:
            del wanted["run"]  # earlier versions did not look at it
            tensors = safetensors_load(raw)
            wanted[EARLIER_CHECKSUM] = _tensors_checksum(tensors)
        wrong = [key for key, value in wanted.items() if meta[key] != value]
        tensors = tensors or safetensors_load(raw)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise DamagedFile(str(error)) from error
    if wrong:
        raise DamagedFile(f"its {wrong[-1]} does not match")
    return tensors, meta


def block_facts(raw: bytes) -> dict[str, Any]:
    """The facts in a block file's header. Raises DamagedFile where there is none; checks nothing else."""
    try:
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        meta = json.loads(header["__metadata__"]["erk_bench"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFile(str(error)) from error
    if not isinstance(meta, dict):
        raise DamagedFile("its header has no facts")
    return meta


def block_entry(path: Path) -> dict[str, Any]:
    """Bytes, seeds and sha256 of a block file, by its header. Raises DamagedFile where there is none."""
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        size = file.read(8)
        meta = block_facts(size + file.read(min(int.from_bytes(size, "little"), num_bytes)))
    try:
        return {
            "bytes": num_bytes,
            **{key: meta[key] for key in ("first_seed", "num_seeds")},
            "sha256": meta.get(CHECKSUM) or meta[EARLIER_CHECKSUM],
        }
    except KeyError as error:
        raise DamagedFile(f"its header has no {error}") from error


def _checksum(raw: bytes, found: str) -> str:
    """What the file's checksum should be, where it has `found`."""
    place = raw.index(found.encode())
    view = memoryview(raw)
    digest = hashlib.sha256(view[:place])
    digest.update(ZEROS)
    digest.update(view[place + len(ZEROS) :])
    return digest.hexdigest()


def _tensors_checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
