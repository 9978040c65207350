"""The safetensors format with our own metadata: files are mapped when read, and written tensor by tensor."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.files import open_atomic
from erk_bench.base.untrusted import parse_json

METADATA_KEY = "erk_bench"  # one key: safetensors does not keep the order of several
MAX_HEADER = 16_000_000  # bytes; that of the largest published network is a hundredth of it
TYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
ORDER = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # as the library writes them


class TensorFile(NamedTuple):
    """metadata: our JSON content, None without any. tensors: by name, views of the file."""

    metadata: Any
    tensors: dict[str, Tensor]


def read_tensors(path: Path) -> TensorFile:
    """A .safetensors file; tensors stay in the file until used. Raises UserError for a damaged one."""
    try:
        with path.open("rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
        if size > min(MAX_HEADER, path.stat().st_size):
            raise ValueError(f"a header of {size:,} bytes")
        with safe_open(path, framework="pt") as file:
            metadata = parse_json((file.metadata() or {}).get(METADATA_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (
        SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError,
    ) as error:  # fmt: skip
        raise UserError(
            f"'{path}' is no readable safetensors file ({error}); it may be truncated: copy it again"
        ) from error
    return TensorFile(metadata, tensors)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """The safetensors format, complete under its name or not at all, the same bytes as the library's save().

    save() needs all tensors a second time in memory; save_file() hides the number of an I/O error and makes
    files that only their owner can read.
    """
    # Wide values first: then every tensor starts at a multiple of its item size.
    order = sorted(tensors, key=lambda name: (ORDER.index(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.itemsize
        header[name] = {
            "dtype": TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    assert sys.byteorder == "little"  # as the format is
    with open_atomic(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            flat = tensors[name].detach().contiguous().cpu().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)
