"""Named tensors of other programs' checkpoints: torch's zip and older formats, and safetensors.

Nothing in a file is run, and its tensors are views of the mapped file: of a training state of gigabytes only
the tensors that are used are read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.pickle_machine import Budget, Function, PickleMachine, Stateful, UnsafePickleError
from erk_bench.base.pickle_values import (
    CHECKPOINT_GLOBALS,
    LEGACY_MAGIC,
    LEGACY_PROTOCOL,
    STATISTICS_GLOBALS,
    STORAGE_DTYPES,
    HeldTensor,
)
from erk_bench.base.pickles import mapped
from erk_bench.base.tensor_files import read_tensors

PICKLE = "data.pkl"
LOCAL_HEADER = 30  # bytes of a zip member's own header before its name
# Numbers that training states hold beside the weights, such as an optimizer's counters.
DTYPES = {
    **STORAGE_DTYPES,
    "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
MAX_COUNT = 2**48  # values of a storage
MAX_DEPTH = 4  # of state dictionaries in a file's dict


class _Ignored(Stateful):
    """Stands for settings of the program that wrote the file."""

    def __init__(self, *_: object) -> None:
        pass

    def set_state(self, state: Any) -> None:
        pass


GLOBALS: Mapping[str, Any] = {
    **STATISTICS_GLOBALS,
    **{name: value for name, value in CHECKPOINT_GLOBALS.items() if name.startswith("torch._utils.")},
    "builtins.set": CHECKPOINT_GLOBALS["builtins.set"],
    "__builtin__.set": CHECKPOINT_GLOBALS["__builtin__.set"],
    **{f"torch.{name}": name for name in DTYPES},
    **{
        name: Function(_Ignored)
        for name in ("argparse.Namespace", "torch.device", "torch.Size", "pathlib.PosixPath")
    },
}

StateDicts = dict[str, dict[str, Tensor]]
# storage(dtype, key, count): the values of one storage.
Storage = Callable[[torch.dtype, str, int], Tensor]


def read_state_dicts(path: Path) -> StateDicts:
    """The state dictionaries of a file, by their key in it; "" where the file itself is one.

    Tensors are views of the file and must not be written to. Raises UnsafePickleError for a file that names
    what is neither a tensor nor settings, and UserError for one that is missing, damaged or of another kind.
    """
    if path.suffix == ".safetensors":
        return {"": read_tensors(path).tensors}
    raw = mapped(path)
    try:
        content = _zip_content(path, raw) if zipfile.is_zipfile(path) else _legacy_content(raw)
        return _state_dicts(content)
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"refused '{path}': {error}. Nothing was run. Save the weights alone, by "
            "torch.save(model.state_dict(), FILE), or as safetensors"
        ) from error
    except (
        ValueError, OSError, EOFError, LookupError, TypeError, AttributeError, MemoryError, RuntimeError,
        ArithmeticError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise UserError(
            f"'{path}' is no readable file of torch.save ({type(error).__name__}: {error}); it may be "
            "truncated or of another kind: compare its size and sha256 with the publisher's"
        ) from error


def _zip_content(path: Path, raw: memoryview) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
    names = [name for name in members if name.rpartition("/")[2] == PICKLE]
    if len(names) != 1:
        raise ValueError(f"{len(names)} members are called {PICKLE}, not one")
    folder = names[0].removesuffix(PICKLE)

    def values(name: str) -> memoryview:
        member = members[name]
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise UnsafePickleError(f"its member '{name}' is compressed, which torch never does")
        header = raw[member.header_offset : member.header_offset + LOCAL_HEADER]
        lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        start = member.header_offset + LOCAL_HEADER + sum(lengths)
        if start + member.file_size > len(raw):
            raise EOFError(f"its member '{name}' is not all there")
        return raw[start : start + member.file_size]

    if f"{folder}byteorder" in members and bytes(values(f"{folder}byteorder")) != b"little":
        raise ValueError("its numbers are big-endian")

    def storage(dtype: torch.dtype, key: str, count: int) -> Tensor:
        return _numbers(values(f"{folder}data/{key}"), dtype, count)

    return _machine(values(names[0]), storage).run()


def _legacy_content(raw: memoryview) -> Any:
    """The older format: five pickles, the fourth the content, then every storage behind its length."""
    found: dict[str, tuple[torch.dtype, int]] = {}

    def noted(dtype: torch.dtype, key: str, count: int) -> Tensor:
        found[key] = dtype, count
        return torch.empty(count, dtype=dtype, device="meta")

    first = _machine(raw, noted)
    if first.run() != LEGACY_MAGIC or first.run() != LEGACY_PROTOCOL:
        raise ValueError("it begins with neither torch's zip format nor its older one")
    if not first.run().get("little_endian", False):
        raise ValueError("its numbers are big-endian")
    start = first.position
    first.run()
    keys = first.run()
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in found for key in keys):
        raise ValueError("its storages are not those of its tensors")
    position, storages = first.position, dict[str, Tensor]()
    for key in keys:
        dtype, count = found[key]
        end = position + 8 + count * dtype.itemsize
        if int.from_bytes(raw[position : position + 8], "little") != count:
            raise ValueError(f"storage {key} has another length than its tensors say")
        storages[key] = _numbers(raw[position + 8 : end], dtype, count)
        position = end
    second = _machine(raw, lambda dtype, key, count: storages[key])
    second.position = start
    return second.run()


def _machine(raw: memoryview, storage: Storage) -> PickleMachine:
    def held(pid: Any) -> HeldTensor:
        kind, name, key, _, count, *view = pid
        # What each name of the table stands for is the name itself.
        if kind != "storage" or name not in DTYPES or not isinstance(key, str) or any(view):
            raise UnsafePickleError("a tensor is kept in another way than torch.save does")
        if type(count) is not int or not 0 <= count < MAX_COUNT:
            raise ValueError(f"storage {key} has {count!r} values")
        return HeldTensor(storage(DTYPES[name], key, count))

    return PickleMachine(raw, GLOBALS, Budget(2 * len(raw)), held)


def _numbers(raw: memoryview, dtype: torch.dtype, count: int) -> Tensor:
    if len(raw) != count * dtype.itemsize:
        raise ValueError(f"a storage has {len(raw):,} bytes, not those of {count:,} values")
    return torch.frombuffer(raw, dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _state_dicts(content: Any, key: str = "") -> StateDicts:
    """Every dict of named tensors in a dict, by the keys that lead to it, joined by dots."""
    if not isinstance(content, dict):
        if key:
            return {}
        raise TypeError(f"it holds a {type(content).__name__} where named tensors are expected")
    named = {name: value.value for name, value in content.items() if isinstance(value, HeldTensor)}
    found: StateDicts = {}
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, dict) and key.count(".") < MAX_DEPTH:
            found |= _state_dicts(value, f"{key}.{name}" if key else name)
    # Beside state dictionaries, a few tensors are counters.
    if all(isinstance(name, str) for name in named) and len(named) > max(map(len, found.values()), default=0):
        found = {key: named, **found}
    return found
