"""Where a process computes: its files, its device, and which of the workers it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.runs.blocks import Worker
from erk_bench.runs.numerics import STRICT, switch
from erk_bench.spec import RunSpec, Spec


def assets_of(spec: Spec) -> Assets:
    """The cache as the environment and the spec have it."""
    return Assets.from_environment(spec.offline)


@dataclass(frozen=True)
class Place:
    """Where one process of a launch computes: its files, its device, and which of the workers it is."""

    assets: Assets
    device: torch.device
    worker: Worker

    @classmethod
    def of(cls, spec: Spec, worker: Worker | None = None) -> Place:
        """Look up the files and set up the device: the worker's own GPU if the spec allows one, else the CPU.

        worker: the only one, if not given.
        """
        worker = worker or Worker()
        return cls(assets_of(spec), set_up_device(spec.device, worker.local_rank), worker)


def set_up_device(choice: str, local_rank: int) -> torch.device:
    """Set up the device of `choice` (auto, cpu or cuda) for the whole process, and return it.

    A CPU computes with one thread, a GPU without TF32, so that every worker rounds in the same way.
    """
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise UserError("device is 'cuda' but torch sees no GPU; use device=cpu, or see 'erk-bench doctor'")
    if choice == "cpu" or not available:
        # One thread a worker: bytes must not depend on the number of cores. Use more workers instead.
        torch.set_num_threads(1)
        return torch.device("cpu")
    switch(STRICT)  # what computes otherwise says so, see `arithmetic`
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)  # for streams and events, which follow the current device
    return device


def check_draws(spec: RunSpec) -> None:
    """Refuse to draw an NVIDIA GPU's random numbers elsewhere, where the generators give others."""
    if spec.draw_device != "cuda":
        return
    on_cpu = spec.device == "cpu" or not torch.cuda.is_available()
    if on_cpu or torch.version.hip:
        other = "a CPU" if on_cpu else "an AMD GPU"
        raise UserError(
            f"draw_device is 'cuda' but the device is {other}, whose generators draw other numbers; use "
            "draw_device=cuda_emulated (an NVIDIA GPU's noise and classes, computed on the CPU, in a run of "
            "its own) or draw_device=cpu (other images of the same distribution)"
        )


@contextmanager
def memory_guard(spec: Spec) -> Iterator[None]:
    """Turns a GPU's lack of memory into one error that names the batch to try."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of GPU memory with block_size {spec.block_size}, which is also the network's batch; "
            f"nothing is lost. Try block_size={max(spec.block_size // 2, 1)} (with another out=..., if this "
            "run has blocks already)"
        ) from error
