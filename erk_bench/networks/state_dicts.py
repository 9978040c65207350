"""Weight files of other programs, read as plain named tensors, and checked against the network they are for.

A pickle can run code when it is read; these are read with torch's own restriction to tensors.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from erk_bench.errors import UserError

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
        content = torch.load(path, map_location="cpu", weights_only=True)
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
