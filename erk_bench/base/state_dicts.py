"""Weight files of other programs, read as plain named tensors, and checked against the network they are for.

A pickle can run code when it is read; these are read with torch's own restriction to tensors.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.pickle_machine import Budget, Function, PickleMachine, UnsafePickleError, checked_key
from erk_bench.base.pickle_values import CHECKPOINT_GLOBALS

NEXT_STEP = "delete it, fetch it again ('erk-bench fetch') and check its source"

# What torch.load raises for damaged or foreign files; found by changing bytes of good ones.
UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Named tensors of a .safetensors file or of a pickle (.pth) that holds nothing but tensors, on the CPU.

    Nothing in the file is run. Raises UserError when it is missing, damaged or holds anything else.
    """
    if not path.is_file():
        raise UserError(f"no weight file at '{path}'; get it with 'erk-bench fetch', or check the path")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"'{path}' is no readable safetensors file ({error}); {NEXT_STEP}") from error
    try:
        _check_bounds(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnsafePickleError as error:
        raise UserError(
            f"'{path}' is no safe weight file: {error}; nothing in it was run; {NEXT_STEP}"
        ) from error
    except UNREADABLE as error:
        # torch's own text is not passed on: it recommends loading the file without the restriction.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it names '{named[1]}', which is no tensor" if named else "it is damaged or of another kind"
        raise UserError(
            f"'{path}' is no safe weight file: {what}; nothing in it was run; {NEXT_STEP}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' holds a {type(content).__name__}, not named tensors; {NEXT_STEP}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise UserError(
                f"entry {name!r} of '{path}' is a {type(value).__name__}, not a named tensor; {NEXT_STEP}"
            )
    return dict(content)


class _Anything(dict[str, Any]):
    """A table of globals in which every name is there; unknown ones give an empty dict when called."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Function:
        return Function(lambda *_: {})


# What torch calls with values that it hashes.
HASHING = ("builtins.set", "__builtin__.set", "collections.OrderedDict")


def _check_bounds(path: Path) -> None:
    """Refuse what torch.load would not survive: endless hashing, and archives that expand.

    Whether what it names is safe is left to torch.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise UnsafePickleError("it expands to more than its own size, which torch never writes")
            pickles = [archive.read(m) for m in members if m.filename.endswith("data.pkl")]
    else:
        pickles = [path.read_bytes()]
    table = _Anything({name: CHECKPOINT_GLOBALS[name] for name in HASHING})
    for raw in pickles:
        machine = PickleMachine(memoryview(raw), table, Budget(2 * len(raw)), _checked_id)
        for index in range(5):  # a legacy stream has five pickles, then raw values
            if index and machine.position == len(raw):
                break
            value = machine.run()
            for key in value if index and isinstance(value, list) else []:
                checked_key(key)


def _checked_id(pid: Any) -> dict[str, Any]:
    """Stands for a storage, once it is sure that no part of its id takes long to hash."""
    for part in pid:
        if not isinstance(part, Function):
            for key in part if type(part) is tuple else [part]:
                checked_key(key)
    return {}


def fitting_tensors(
    path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], network: str
) -> dict[str, Tensor]:
    """`found`, read from `path`, after checking that it has the names and shapes of `expected`.

    BatchNorm's counters `num_batches_tracked` may be missing and become 0: inference does not use them, and
    weights converted from other programs lack them. Raises UserError naming the first tensor that does not
    fit.
    """
    counters = {name for name in expected if name.endswith(".num_batches_tracked")}
    wrong = {}
    for name in [*expected, *(name for name in found if name not in expected)]:
        if name not in found and name in counters:
            continue
        is_like = _described(found.get(name)), _described(expected.get(name))
        if is_like[0] != is_like[1]:
            wrong[name] = is_like
    if wrong:
        name, (here, wanted) = next(iter(wrong.items()))
        raise UserError(
            f"'{path}' does not fit {network}: tensor '{name}' is {here} in the file, {wanted} in the "
            f"network ({len(wrong)} tensors differ); {NEXT_STEP}"
        )
    return {name: torch.zeros((), dtype=torch.int64) for name in counters} | dict(found)


def _described(tensor: Tensor | None) -> str:
    """Shape and kind of a tensor, for comparing and for messages."""
    if tensor is None:
        return "missing"
    kind = "floating point" if tensor.is_floating_point() else str(tensor.dtype)
    return f"{list(tensor.shape)} {kind}"
