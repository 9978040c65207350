"""Reads published pickles without running anything in them.

EDM, EDM2 and ERK-Guid publish networks as Python pickles whose objects carry their own source code and
execute it when unpickled normally. Here every global that a pickle may name is looked up in a closed table
of harmless stand-ins; any other global stops the reading. Persistent objects become `PersistentObject`
values (class name, constructor arguments, state); their source text is never looked at. Each kind of file has
its own table: reference statistics need numpy arrays only.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from erk_bench.base.errors import UserError
from erk_bench.base.pickle_machine import Budget, PickleMachine, UnsafePickleError
from erk_bench.base.pickle_values import (
    CHECKPOINT_GLOBALS,
    STATISTICS_GLOBALS,
    Container,
    HeldArray,
    HeldTensor,
    PersistentObject,
)

__all__ = [
    "CHECKPOINT",
    "CHECKPOINT_GLOBALS",
    "STATISTICS",
    "STATISTICS_GLOBALS",
    "Container",
    "PersistentObject",
    "UnsafePickleError",
    "load_pickle",
    "mapped",
]

MAX_VALUES = 200_000  # published networks have a few thousand, each tensor counted as one
MAX_DEPTH = 100  # of values in values; published networks have some 20
NAMED_GROUPS = ("_parameters", "_buffers", "_modules", "_init_kwargs")


class PickleKind(NamedTuple):
    """A kind of published file: what errors call it, the globals it may name, what to give instead."""

    noun: str
    allowed: Mapping[str, Any]
    instead: str


CHECKPOINT = PickleKind(
    "checkpoint",
    CHECKPOINT_GLOBALS,
    "Give the published .pkl, or a .safetensors made by 'erk-bench convert'. If it holds the weights of a "
    "diffusion transformer, say whose by family=NAME: dit, sit, repa, lightningdit or jit",
)
STATISTICS = PickleKind(
    "file of reference statistics",
    STATISTICS_GLOBALS,
    "Give the published .pkl or .npz, or a .safetensors made by 'erk-bench reference'",
)


class _Unfolding:
    """Makes plain containers of what was read; parts that are shared count each time, and in bytes too."""

    def __init__(self, max_bytes: int) -> None:
        self._values = 0
        self._budget = Budget(max_bytes)

    def plain(self, value: Any, depth: int = 0) -> Any:
        """The same with tensors and arrays in place of their stand-ins."""
        self._values += 1
        if self._values > MAX_VALUES:  # lists that share lists can unfold without end
            raise UnsafePickleError(f"it unfolds into more than {MAX_VALUES:,} values")
        if depth > MAX_DEPTH:
            raise UnsafePickleError(f"it nests deeper than {MAX_DEPTH} values")
        if isinstance(value, (HeldArray, HeldTensor)):
            self._budget.take_bytes(value.value.nbytes)
            return value.value
        if isinstance(value, memoryview):
            self._budget.take_bytes(len(value))
            return bytes(value)
        if isinstance(value, PersistentObject):
            return PersistentObject(value.class_name, self._state(value.state, depth))
        if isinstance(value, Container):
            unfolded = Container()
            unfolded.state = self._state(value.state, depth)
            return unfolded
        if isinstance(value, dict):
            return {key: self.plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.plain(item, depth + 1) for item in value)
        return value

    def _state(self, state: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """The state of a module, once it is sure that its groups are dicts with names as keys."""
        for group in NAMED_GROUPS:
            content = state.get(group, {})
            if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
                raise ValueError(f"'{group}' of a persistent object is no dict of names")
        return {key: self.plain(item, depth + 1) for key, item in state.items()}


def load_pickle(path: Path, kind: PickleKind = CHECKPOINT) -> Any:
    """The plain content of a published pickle of `kind`: CHECKPOINT or STATISTICS.

    Tensors and arrays are views of the file, which stays mapped as long as one of them lives; writing to them
    does not change it. Raises UnsafePickleError, naming the first forbidden global, before anything could
    run, and UserError for a file that is missing, truncated or no pickle at all.
    """
    raw = mapped(path)
    if bytes(raw[:4]) == b"PK\x03\x04":
        raise UnsafePickleError(
            f"'{path}' is a zip archive (torch.save's format), not a published EDM2 pickle; "
            f"nothing was unpacked. {kind.instead}"
        )
    size = len(raw)
    try:
        content = PickleMachine(raw, kind.allowed, Budget(2 * size)).run()
        return _Unfolding(2 * size).plain(content)
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"refused '{path}': {error}. Nothing was run. "
            f"Download the file again from its publisher; allowed globals: {', '.join(kind.allowed)}"
        ) from error
    except (
        EOFError, ValueError, TypeError, LookupError, AttributeError, MemoryError, RuntimeError,
        ArithmeticError,
    ) as error:  # fmt: skip
        raise UserError(
            f"'{path}' is no readable {kind.noun} ({size:,} bytes; {type(error).__name__}: {error}); "
            "it may be truncated or of another kind: compare its size and sha256 with the publisher's"
        ) from error


def mapped(path: Path) -> memoryview:
    """The bytes of a file, in memory only where they are used; what is written to them stays in memory."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"cannot read '{path}': it is no regular file; check the path")
        with path.open("rb") as file:
            if not path.stat().st_size:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}; check the path") from error
