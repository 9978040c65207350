"""Images a second, memory and share of the measured matrix rate of EDM2 networks with random weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from erk_bench.networks.checkpoint import make_network
from erk_bench.networks.compiled import CompiledDenoiser
from erk_bench.networks.denoiser import EDMPreconditioned
from erk_bench.networks.sizes import architecture
from erk_bench.runs.cost import network_footprint

SIZES = (
    "edm2-img512-xs",
    "edm2-img512-s",
    "edm2-img512-xxl",
    "edm2-img64-xs",
    "edm2-img64-s",
    "edm2-img64-xl",
)
BATCHES = (8, 32, 128)


def rate(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Calls a second after two to warm up, over at least so many seconds."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(2):
        run()
    wait()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        run()
        calls += 1
        wait()
    return calls / (time.perf_counter() - start)


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 8192, seconds: float = 2.0) -> float:
    """FLOPs a second of square matrix products."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 * rate(lambda: a @ b, device, seconds)


def throughput(
    device: torch.device,
    sizes: tuple[str, ...] = SIZES,
    batches: tuple[int, ...] = BATCHES,
    dtype: torch.dtype = torch.float16,
    *,
    compiled: tuple[bool, ...] = (False, True),
    small: bool = False,
) -> list[dict[str, Any]]:
    """A row for each network, batch and whether it is compiled; "images/s" are of one evaluation each.

    small: not compiled, and timed for a moment only.
    """
    seconds, side = (0.01, 64) if small else (2.0, 8192)
    peak = matrix_rate(device, dtype, side, seconds)
    rows = []
    for size in sizes:
        row = architecture(size)
        with torch.device(device):
            net = EDMPreconditioned(make_network(row)).fold(dtype).to(memory_format=torch.channels_last)
        counted = network_footprint(row, str(dtype).removeprefix("torch."))
        flops = counted.flops
        for compiles in (False,) if small else compiled:
            run_net: Callable[..., torch.Tensor] = CompiledDenoiser(net) if compiles else net
            for batch in batches:
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                shape = (batch, row.img_channels, row.img_resolution, row.img_resolution)
                x = torch.randn(shape, device=device)
                try:
                    with torch.inference_mode():
                        calls = rate(lambda: run_net(x, 0.7, None), device, seconds)  # noqa: B023
                except torch.OutOfMemoryError:
                    continue
                memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
                rows.append(
                    {
                        "network": size, "compiled": compiles, "batch": batch,
                        "evaluations of images/s": f"{calls * batch:.4g}",
                        "share of matrix rate": f"{calls * batch * flops / peak:.1%}",
                        "memory, GB": f"{memory / 1e9:.2f}",
                        "as plan counts": f"{(counted.weights + batch * counted.activations) / 1e9:.2f}",
                    }
                )  # fmt: skip
        del net
    return rows
