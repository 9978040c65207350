"""Memory and time of loading a checkpoint: random float16 weights of a published size, as published.

    .venv/bin/python scripts/bench_loading.py edm2-img512-xs edm2-img512-xl

Prints, for each size, a row of a table: the parameters in float32, the file, the peak and the rest of the
memory of a process that loads it (above what its imports take), and the seconds. The file is made anew in the
folder for temporary files.
"""

from __future__ import annotations

import functools
import io
import pickle
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from erk_bench.networks.checkpoint import make_network
from erk_bench.networks.sizes import architecture

# Run in a process of its own, so that only the loading counts. Memory is Linux's, in kB.
MEASURE = """
import re, sys, time
from pathlib import Path
from erk_bench.networks.checkpoint import build_denoiser, read_checkpoint

def memory(field):
    return int(re.search(rf"{field}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000

build = lambda path: build_denoiser(read_checkpoint(Path(path)))
before = memory("VmRSS")
start = time.perf_counter()
net = build(sys.argv[1])
seconds = time.perf_counter() - start
bytes_ = sum(p.numel() * p.itemsize for p in net.parameters())
print(bytes_ / 1e6, memory("VmHWM") - before, memory("VmRSS") - before, seconds)
"""


class _Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self._parts = (function, args)

    def __reduce__(self) -> Any:
        return self._parts


@functools.cache
def _global(module: str, name: str) -> Any:
    """A function that pickles under a published name."""

    def function(*_: object) -> None:
        """Never called: the file is read by names."""

    function.__module__, function.__qualname__, function.__name__ = module, name, name
    for part in (module.partition(".")[0], module):
        sys.modules.setdefault(part, types.ModuleType(part))
    setattr(sys.modules[module], name, function)
    return function


def _parameter(tensor: torch.Tensor) -> _Call:
    stream = io.BytesIO()
    storage = torch.storage.TypedStorage(
        wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True
    )
    torch.save(storage, stream, _use_new_zipfile_serialization=False)
    load: Any = torch.storage._load_from_bytes
    build: Any = torch._utils._rebuild_tensor_v2
    return _Call(
        build, _Call(load, stream.getvalue()), 0, tuple(tensor.shape), tuple(tensor.stride()), False, {}
    )


def _random(shape: torch.Size) -> torch.Tensor:
    """Random float16 numbers that repeat: drawing each would take longer than all the rest."""
    few = torch.randn(100_003).half()
    return few.repeat(shape.numel() // len(few) + 1)[: shape.numel()].clone().reshape(shape)


def _published(module: nn.Module, init: Mapping[str, Any] | None = None, class_name: str = "") -> _Call:
    """A module of random float16 weights, with its children, as a published persistent object."""

    def values(tensors: Any) -> dict[str, Any]:
        return {name: None if t is None else _parameter(_random(t.shape)) for name, t in tensors.items()}

    state = {
        "training": False,
        "_parameters": values(module._parameters),
        "_buffers": values(module._buffers),
        "_modules": {name: child and _published(child) for name, child in module._modules.items()},
        "_init_kwargs": dict(init or {}),
    }
    meta = {
        "type": "class", "version": 6, "module_src": "", "state": state,
        "class_name": class_name or type(module).__name__,
    }  # fmt: skip
    return _Call(_global("torch_utils.persistence", "_reconstruct_persistent_obj"), meta)


def write_published(path: Path, size: str) -> None:
    """Write a network of this architecture with random float16 weights as a published .pkl."""
    row = architecture(size)
    with torch.device("meta"):
        network = make_network(row)
    torch.manual_seed(0)
    with path.open("wb") as file:
        pickle.dump({"ema": _published(network, row.arguments, row.class_name)}, file, protocol=4)


def main(sizes: list[str]) -> None:
    print("| network | parameters MB | file MB | peak MB | after loading MB | seconds |")
    print("|---|---|---|---|---|---|")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.pkl"
            write_published(path, size)
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, str(path)], check=True, capture_output=True, text=True
            )
            parameters, peak, rest, seconds = map(float, done.stdout.split())
            print(
                f"| {size} | {parameters:,.0f} | {path.stat().st_size / 1e6:,.0f} | {peak:,.0f} "
                f"| {rest:,.0f} | {seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:] or ["edm2-img512-xs", "edm2-img512-xl"])
