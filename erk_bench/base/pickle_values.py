"""Harmless stand-ins for what published pickles name: the closed tables of globals, and what each becomes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from erk_bench.base.pickle_machine import (
    Budget,
    Function,
    PickleMachine,
    Stateful,
    UnsafePickleError,
    checked_key,
)

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first value of a torch.save stream before zip files
LEGACY_PROTOCOL = 1001
STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
}
MAX_DIMS = 16  # of a tensor or array


class PersistentObject(NamedTuple):
    """What a persistence-decorated object held; nothing of it has been executed."""

    class_name: str
    state: dict[str, Any]

    @property
    def init_kwargs(self) -> dict[str, Any]:
        return dict(self.state.get("_init_kwargs", {}))


class Container(Stateful):
    """Stands for a torch.nn container module: just its state."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def set_state(self, state: Any) -> None:
        self.state = dict(_mapping_of(state))


class HeldTensor(NamedTuple):
    """A tensor while the pickle is read."""

    value: Tensor


class _ArrayDtype(Stateful):
    """Stands for numpy.dtype: plain numbers only, never Python objects."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(r"[biuf][0-9]{1,2}", code):
            raise UnsafePickleError(f"numpy dtype '{code}' is not a plain number type")
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        if state[1] in ("<", ">", "="):
            self.dtype = self.dtype.newbyteorder(state[1])


class HeldArray(Stateful):
    """Stands for numpy.ndarray while its state arrives."""

    value: np.ndarray

    def set_state(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        flat = np.frombuffer(raw, dtype=_dtype_of(dtype))
        self.value = flat.reshape(_sizes(shape), order="F" if fortran else "C")


def _mapping_of(value: Any) -> Mapping[str, Any]:
    if type(value) is not dict:
        raise TypeError(f"a state of type {type(value).__name__}")
    return value


def _dtype_of(value: Any) -> np.dtype[Any]:
    if not isinstance(value, _ArrayDtype):
        raise TypeError(f"an array of type {type(value).__name__}")
    return value.dtype


def _sizes(value: Any) -> tuple[int, ...]:
    """A shape, strides or order of axes: few, and whole numbers, so that arithmetic with them is quick."""
    if type(value) not in (tuple, list) or len(value) > MAX_DIMS:
        raise TypeError(f"a shape of type {type(value).__name__}, not at most {MAX_DIMS} whole numbers")
    if any(type(size) is not int for size in value):
        raise TypeError("a shape that is not of whole numbers")
    return tuple(value)


def _mapping(*pairs: Any) -> dict[Any, Any]:
    """A dict of nothing or of one list of pairs."""
    (items,) = pairs or ([],)
    return {checked_key(key): value for key, value in items}


def _set(*items: Any) -> set[Any]:
    (members,) = items or ([],)
    return set(map(checked_key, members))


def _reconstruct_array(*_: object) -> HeldArray:
    return HeldArray()


def _array_from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> HeldArray:
    """What protocol 5 calls for a contiguous array; order "K" comes with a permutation of axes."""
    flat = np.frombuffer(raw, dtype=_dtype_of(dtype))
    array = HeldArray()
    if order in ("C", "F"):
        array.value = flat.reshape(_sizes(shape), order=order)
    else:
        array.value = flat.reshape(_sizes(shape)).transpose(None if axes is None else _sizes(axes))
    return array


def _bytes_from_text(text: Any, encoding: Any) -> bytes:
    """Protocol 2 has no bytes: Python 3 writes text that is to be encoded as latin1."""
    if not isinstance(text, str) or encoding != "latin1":
        named = repr(encoding) if isinstance(encoding, str) else f"a {type(encoding).__name__}"
        raise UnsafePickleError(f"it encodes text as {named}; only bytes written as latin1 text are read")
    return text.encode("latin1")


def _number(dtype: Any, raw: Any) -> Any:
    return np.frombuffer(raw, dtype=_dtype_of(dtype))[0].item()


def _persistent(meta: Any) -> PersistentObject:
    if meta.get("type") != "class" or not isinstance(meta["class_name"], str):
        raise UnsafePickleError("a persistent object is not of type 'class' with a class name")
    return PersistentObject(meta["class_name"], dict(_mapping_of(meta["state"])))


def _parameter(data: Any, *_: object) -> HeldTensor:
    if not isinstance(data, HeldTensor):
        raise TypeError(f"a parameter of type {type(data).__name__}")
    return data


def _tensor(held: Any, offset: Any, size: Any, stride: Any, *_: object) -> HeldTensor:
    if not isinstance(held, HeldTensor) or type(offset) is not int:
        raise TypeError("a tensor without storage or offset")
    storage, size, stride = held.value, _sizes(size), _sizes(stride)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    fits = offset >= 0 and all(n >= 0 for n in size) and all(step >= 0 for step in stride)
    count = math.prod(size)
    if not fits or count > storage.numel() or (count and last >= storage.numel()):
        raise UnsafePickleError(
            f"a tensor of shape {size} does not fit its storage of {storage.numel()} elements"
        )
    return HeldTensor(storage.as_strided(size, stride, offset))


def _storage(budget: Budget, raw: Any) -> HeldTensor:
    """The values of one nested torch.save stream (five pickles, then count and raw elements), as a view."""
    data = memoryview(raw)
    machine = PickleMachine(data, {}, budget)
    if machine.run() != LEGACY_MAGIC or machine.run() != LEGACY_PROTOCOL:
        raise UnsafePickleError("a nested tensor is not in torch's legacy storage format")
    if not machine.run().get("little_endian", False):
        raise UnsafePickleError("a nested tensor is stored big-endian; only little-endian is read")
    named = PickleMachine(data, STORAGE_GLOBALS, budget, lambda pid: pid[1], machine.position)
    name = named.run()
    machine.position = named.position
    keys = machine.run()
    if len(keys) != 1:
        raise UnsafePickleError(f"a nested stream holds {len(keys)} storages; expected one")
    if not isinstance(name, str):
        raise TypeError(f"a storage of type {type(name).__name__}")
    dtype = STORAGE_DTYPES[name]
    body = data[machine.position :]
    count = int.from_bytes(body[:8], "little")
    expected = 8 + count * dtype.itemsize
    if len(body) != expected:
        raise UnsafePickleError(f"a nested storage has {len(body)} bytes; expected {expected}")
    # torch warns of memory that cannot be written, such as bytes that were text in the file.
    values = bytearray(body[8:]) if data.readonly else body[8:]
    return HeldTensor(torch.frombuffer(values, dtype=dtype) if count else torch.empty(0, dtype=dtype))


STORAGE_GLOBALS: dict[str, Any] = {f"torch.{name}": name for name in STORAGE_DTYPES}

# Every global that numpy 1 and 2 name for arrays of numbers in pickles of protocols 2 to 5, and plain dicts.
STATISTICS_GLOBALS: dict[str, Any] = {
    "_codecs.encode": Function(_bytes_from_text),
    "collections.OrderedDict": Function(_mapping),
    "dnnlib.util.EasyDict": Function(_mapping),
    **{
        f"numpy.{core}.{name}": stand_in
        for core in ("_core", "core")
        for name, stand_in in {
            "multiarray._reconstruct": Function(_reconstruct_array),
            "multiarray.scalar": Function(_number),
            "numeric._frombuffer": Function(_array_from_buffer),
        }.items()
    },
    "numpy.dtype": Function(_ArrayDtype),
    "numpy.ndarray": "numpy.ndarray",  # only named
}

# Every global that the published EDM and EDM2 pickles name (and no other), with its stand-in.
CHECKPOINT_GLOBALS: dict[str, Any] = {
    **STATISTICS_GLOBALS,
    "__builtin__.set": Function(_set),  # as protocol 2 calls it
    "builtins.set": Function(_set),
    "torch._utils._rebuild_parameter": Function(_parameter),
    "torch._utils._rebuild_tensor_v2": Function(_tensor),
    "torch.nn.modules.container.ModuleDict": Function(Container),
    "torch.storage._load_from_bytes": Function(_storage, counted=True),
    "torch_utils.persistence._reconstruct_persistent_obj": Function(_persistent),
}
