"""Reads published pickles without running anything in them.

EDM, EDM2 and ERK-Guid publish networks as Python pickles whose objects carry their own source code and
execute it when unpickled normally. Here every global that a pickle may name is looked up in a closed table
of harmless stand-ins; any other global stops the reading. Persistent objects become `PersistentObject`
values (class name, constructor arguments, state); their source text is never looked at. Each kind of file has
its own table: reference statistics need numpy arrays only.
"""

from __future__ import annotations

import io
import itertools
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from erk_bench.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first value of a torch.save stream before zip files
LEGACY_PROTOCOL = 1001
STORAGE_DTYPES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16}
MAX_VALUES = 200_000  # published networks have a few thousand, each tensor counted as one
NAMED_GROUPS = ("_parameters", "_buffers", "_modules", "_init_kwargs")


class UnsafePickleError(UserError):
    """The pickle names a global, or uses an operation, that published files do not need."""


class PersistentObject(NamedTuple):
    """What a persistence-decorated object held; nothing of it has been executed."""

    class_name: str
    state: dict[str, Any]

    @property
    def init_kwargs(self) -> dict[str, Any]:
        return dict(self.state.get("_init_kwargs", {}))


class Container:
    """Stands for a torch.nn container module: just its state."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = dict(state)


class _Held(NamedTuple):
    """A tensor while the pickle is read: on a bare one, BUILD would call the resizing Tensor.__setstate__."""

    value: Tensor


class _ArrayDtype:
    """Stands for numpy.dtype: plain numbers only, never Python objects."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(r"[biuf][0-9]{1,2}", code):
            raise UnsafePickleError(f"numpy dtype '{code}' is not a plain number type")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">", "="):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for numpy.ndarray while its state arrives."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        flat = np.frombuffer(raw, dtype=dtype.dtype)
        self.value = flat.reshape(shape, order="F" if fortran else "C").copy()


class _Call:
    """A table entry that a pickle may call; an instance, so that nothing about it can be altered."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: object) -> None:
        raise UnsafePickleError(f"the pickle tries to alter '{name}' of a function")


def _reconstruct_array(*_: object) -> _Array:
    return _Array()


def _array_from_buffer(
    raw: bytes, dtype: _ArrayDtype, shape: tuple[int, ...], order: str, axes: tuple[int, ...] | None = None
) -> _Array:
    """What protocol 5 calls for a contiguous array; order "K" comes with a permutation of axes."""
    flat = np.frombuffer(raw, dtype=dtype.dtype)
    array = _Array()
    if order in ("C", "F"):
        array.value = flat.reshape(shape, order="F" if order == "F" else "C").copy()
    else:
        array.value = flat.reshape(shape).transpose(axes).copy()
    return array


def _bytes_from_text(text: str, encoding: str) -> bytes:
    """Protocol 2 has no bytes: Python 3 writes text that is to be encoded as latin1."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnsafePickleError(
            f"it encodes text as {encoding!r}; only bytes written as latin1 text are read"
        )
    return text.encode("latin1")


def _number(dtype: _ArrayDtype, raw: bytes) -> Any:
    return np.frombuffer(raw, dtype=dtype.dtype)[0].item()


def _persistent(meta: Mapping[str, Any]) -> PersistentObject:
    if meta.get("type") != "class" or not isinstance(meta["class_name"], str):
        raise UnsafePickleError("a persistent object is not of type 'class' with a class name")
    return PersistentObject(meta["class_name"], dict(meta["state"]))


def _parameter(data: _Held, *_: object) -> _Held:
    return data


def _tensor(held: _Held, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> _Held:
    storage = held.value
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    fits = offset >= 0 and all(n >= 0 for n in size) and all(step >= 0 for step in stride)
    count = 1
    for n in size:
        count *= n
    if not fits or count > storage.numel() or (count and last >= storage.numel()):
        raise UnsafePickleError(
            f"a tensor of shape {tuple(size)} does not fit its storage of {storage.numel()} elements"
        )
    return _Held(storage.as_strided(size, stride, offset).clone())


def _storage(raw: bytes) -> _Held:
    """The values of one nested torch.save stream (five pickles, then count and raw elements)."""
    stream = io.BytesIO(raw)
    if _load(stream, {}) != LEGACY_MAGIC or _load(stream, {}) != LEGACY_PROTOCOL:
        raise UnsafePickleError("a nested tensor is not in torch's legacy storage format")
    info = _load(stream, {})
    if not info.get("little_endian", False):
        raise UnsafePickleError("a nested tensor is stored big-endian; only little-endian is read")
    name = _load(stream, STORAGE_GLOBALS, persistent=lambda pid: pid[1])
    keys = _load(stream, {})
    if len(keys) != 1:
        raise UnsafePickleError(f"a nested stream holds {len(keys)} storages; expected one")
    dtype = STORAGE_DTYPES[name]
    body = raw[stream.tell() :]
    count = int.from_bytes(body[:8], "little")
    expected = 8 + count * dtype.itemsize
    if len(body) != expected:
        raise UnsafePickleError(f"a nested storage has {len(body)} bytes; expected {expected}")
    values = bytearray(body[8:])
    return _Held(torch.frombuffer(values, dtype=dtype) if count else torch.empty(0, dtype=dtype))


STORAGE_GLOBALS: dict[str, Any] = {f"torch.{name}": name for name in STORAGE_DTYPES}

# Every global that the published EDM and EDM2 pickles name (and no other), with its stand-in.
CHECKPOINT_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "dnnlib.util.EasyDict": dict,
    "numpy._core.multiarray._reconstruct": _Call(_reconstruct_array),
    "numpy.core.multiarray._reconstruct": _Call(_reconstruct_array),
    "numpy._core.multiarray.scalar": _Call(_number),
    "numpy.core.multiarray.scalar": _Call(_number),
    "numpy.dtype": _Call(_ArrayDtype),
    "numpy.ndarray": "numpy.ndarray",
    "torch._utils._rebuild_parameter": _Call(_parameter),
    "torch._utils._rebuild_tensor_v2": _Call(_tensor),
    "torch.nn.modules.container.ModuleDict": Container,
    "torch.storage._load_from_bytes": _Call(_storage),
    "torch_utils.persistence._reconstruct_persistent_obj": _Call(_persistent),
}

# Every global that numpy 1 and 2 name for arrays of numbers in pickles of protocols 2 to 5, and plain dicts.
STATISTICS_GLOBALS: dict[str, Any] = {
    "_codecs.encode": _Call(_bytes_from_text),
    "collections.OrderedDict": OrderedDict,
    "dnnlib.util.EasyDict": dict,
    **{
        f"numpy.{core}.{name}": stand_in
        for core in ("_core", "core")
        for name, stand_in in {
            "multiarray._reconstruct": _Call(_reconstruct_array),
            "multiarray.scalar": _Call(_number),
            "numeric._frombuffer": _Call(_array_from_buffer),
        }.items()
    },
    "numpy.dtype": _Call(_ArrayDtype),
    "numpy.ndarray": "numpy.ndarray",
}


class PickleKind(NamedTuple):
    """A kind of published file: what errors call it, the globals it may name, what to give instead."""

    noun: str
    allowed: Mapping[str, Any]
    instead: str


CHECKPOINT = PickleKind(
    "checkpoint",
    CHECKPOINT_GLOBALS,
    "Give the published .pkl, or a .safetensors made by 'erk-bench convert'",
)
STATISTICS = PickleKind(
    "file of reference statistics",
    STATISTICS_GLOBALS,
    "Give the published .pkl or .npz, or a .safetensors made by 'erk-bench reference'",
)


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(
        self,
        stream: io.BytesIO,
        allowed: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__(stream)
        self._allowed = allowed
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in self._allowed:
            raise UnsafePickleError(
                f"it names the global '{full_name}', which published files of this kind do not use"
            )
        return self._allowed[full_name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise UnsafePickleError("it uses persistent ids outside a tensor storage")
        return self._persistent(pid)


def _check_opcodes(stream: io.BytesIO) -> None:
    """Refuse what the unpickler would do before `find_class` has a say.

    Memo numbers out of all proportion: it allocates memory for them at once. Extension codes: it takes the
    object from a cache of the process, if any other pickle put it there.
    """
    start = stream.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name.startswith("EXT"):
            raise UnsafePickleError(f"it uses the extension code {argument} instead of a global's name")
        if "PUT" in opcode.name and isinstance(argument, int) and argument > count:
            raise UnsafePickleError(f"it stores memo number {argument} after {count} operations")
    stream.seek(start)


def _load(
    stream: io.BytesIO,
    allowed: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    _check_opcodes(stream)
    return _RestrictedUnpickler(stream, allowed, persistent).load()


def _plain(value: Any, visits: Iterator[int]) -> Any:
    """Replace stand-ins by the tensors and arrays they became, in nested plain containers."""
    if next(visits) >= MAX_VALUES:  # lists that share lists can unfold without end
        raise UnsafePickleError(f"it unfolds into more than {MAX_VALUES:,} values")
    if isinstance(value, (_Array, _Held)):
        return value.value
    if isinstance(value, PersistentObject):
        return PersistentObject(value.class_name, _named(_plain(value.state, visits)))
    if isinstance(value, Container):
        value.state = _named(_plain(value.state, visits))
        return value
    if isinstance(value, dict):
        return {key: _plain(item, visits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, visits) for item in value)
    return value


def _named(state: dict[str, Any]) -> dict[str, Any]:
    """The same state, once it is sure that its groups are dicts with names as keys."""
    for group in NAMED_GROUPS:
        content = state.get(group, {})
        if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
            raise ValueError(f"'{group}' of a persistent object is no dict of names")
    return state


def load_pickle(path: Path, kind: PickleKind = CHECKPOINT) -> Any:
    """The plain content of a published pickle of `kind`: CHECKPOINT or STATISTICS.

    Raises UnsafePickleError, naming the first forbidden global, before anything could run, and UserError
    for a file that is missing, truncated or no pickle at all.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}; check the path") from error
    if raw[:4] == b"PK\x03\x04":
        raise UnsafePickleError(
            f"'{path}' is a zip archive (torch.save's format), not a published EDM2 pickle; "
            f"nothing was unpacked. {kind.instead}"
        )
    try:
        return _plain(_load(io.BytesIO(raw), kind.allowed), itertools.count())
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"refused '{path}': {error}. Nothing was run. "
            f"Download the file again from its publisher; allowed globals: {', '.join(kind.allowed)}"
        ) from error
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError,
        AttributeError, MemoryError, RuntimeError, OverflowError,
    ) as error:  # fmt: skip
        raise UserError(
            f"'{path}' is no readable {kind.noun} ({len(raw):,} bytes; {type(error).__name__}: {error}); "
            "it may be truncated or of another kind: compare its size and sha256 with the publisher's"
        ) from error
