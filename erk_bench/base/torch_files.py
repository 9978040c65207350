"""Arrays and tensors of torch.save's zip files: nothing but what the closed table names is read."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from erk_bench.base.errors import UserError
from erk_bench.base.pickle_machine import Budget, Function, PickleMachine, UnsafePickleError
from erk_bench.base.pickle_values import (
    CHECKPOINT_GLOBALS,
    STATISTICS_GLOBALS,
    STORAGE_DTYPES,
    STORAGE_GLOBALS,
    HeldArray,
    HeldTensor,
)

PICKLE = "data.pkl"
REBUILD = "torch._utils._rebuild_tensor_v2"
# What torch.save names for dicts of numpy arrays, and for tensors.
GLOBALS: Mapping[str, Any] = {
    **STATISTICS_GLOBALS,
    REBUILD: CHECKPOINT_GLOBALS[REBUILD],
    **STORAGE_GLOBALS,
}
MAX_ENTRIES = 1000  # of the dict


def read_torch_file(path: Path) -> Any:
    """A tensor, or a dict of arrays and tensors by name, written by torch.save.

    Nothing in the file is run. Raises UnsafePickleError for a file that names or holds anything else, and
    UserError for one that is damaged, expands to more than its size, or has torch's older format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise UnsafePickleError("it expands to more than its own size, which torch never writes")
            return _content(archive)
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"refused '{path}': {error}. Nothing was run. Give the file that its program wrote"
        ) from error
    except (
        ValueError, OSError, EOFError, LookupError, TypeError, AttributeError, MemoryError, RuntimeError,
        ArithmeticError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise UserError(
            f"'{path}' is no readable file of torch.save ({type(error).__name__}: {error}); it may be "
            "truncated or of another kind: make it again"
        ) from error


def _content(archive: zipfile.ZipFile) -> Any:
    names = [name for name in archive.namelist() if name.rpartition("/")[2] == PICKLE]
    if len(names) != 1:
        raise ValueError(f"{len(names)} members are called {PICKLE}, not one")
    folder = names[0].removesuffix(PICKLE)
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("its numbers are big-endian")
    raw = archive.read(names[0])

    def storage(pid: Any) -> HeldTensor:
        kind, name, key, _, count = pid
        # What each name of the table stands for is the name itself.
        if kind != "storage" or name not in STORAGE_DTYPES or not str(key).isdigit():
            raise UnsafePickleError("a tensor is kept in another way than torch.save does")
        values, dtype = bytearray(archive.read(f"{folder}data/{key}")), STORAGE_DTYPES[name]
        if type(count) is not int or len(values) != count * dtype.itemsize:
            raise ValueError(f"storage {key} has {len(values):,} bytes, not those of {count} values")
        return HeldTensor(torch.frombuffer(values, dtype=dtype) if count else torch.empty(0, dtype=dtype))

    # Values of arrays stand in the pickle twice as long: as text, then as bytes.
    found = PickleMachine(memoryview(raw), GLOBALS, Budget(2 * len(raw)), storage).run()
    if isinstance(found, dict):
        if len(found) > MAX_ENTRIES or not all(isinstance(name, str) for name in found):
            raise ValueError(f"its dict has {len(found):,} entries or other keys than names")
        return {name: _plain(value) for name, value in found.items()}
    return _plain(found)


def _plain(value: Any) -> Any:
    if isinstance(value, (HeldArray, HeldTensor)):
        return value.value
    if isinstance(value, (dict, list, set, Function)):
        raise TypeError(f"it holds a {type(value).__name__} where an array is expected")
    return value
