"""Randomness that belongs to a seed: the same sample whatever the batch, rank or launcher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erk_bench.base.transfers import to_device
from erk_bench.sampling.philox import EmulatedGenerator

CUDA_EMULATED = "cuda_emulated"  # in place of a device: an NVIDIA GPU's numbers, computed on the CPU


class TorchGenerator:
    """torch's own generator of a device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        generator = self._generator
        return torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=dtype)

    def integers(self, high: int) -> Tensor:
        return torch.randint(high, (1,), generator=self._generator, device=self._generator.device)


class SeededDraws:
    """One random generator a seed; draws keep their order: noise, then label, then any fresh noise.

    seeds: any integers, taken modulo 2^32. device: where torch's generators are and draw; or "cuda_emulated"
    for an NVIDIA GPU's numbers on the CPU (normals within about 1e-6). CPU and CUDA numbers differ.
    Source of the convention: the published EDM2 sampler.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        numbers = [int(seed) % 2**32 for seed in seeds]
        self._generators: list[EmulatedGenerator] | list[TorchGenerator]
        if device == CUDA_EMULATED:
            self._generators = [EmulatedGenerator(number) for number in numbers]
        else:
            self._generators = [TorchGenerator(number, torch.device(device)) for number in numbers]

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal [num_seeds, *shape]."""
        return torch.stack([generator.normal(shape, dtype) for generator in self._generators])

    def integers(self, high: int) -> Tensor:
        """Uniform integers of 0..high-1, int64 [num_seeds]; high is below 2^28."""
        return torch.cat([generator.integers(high) for generator in self._generators])

    def normal_like(self, x: Tensor) -> Tensor:
        """Fresh normal noise of x's shape and dtype; x's batch must match the seeds."""
        return to_device(self.normal(x.shape[1:], x.dtype), x.device)


def initial(
    draws: SeededDraws, shape: Sequence[int], num_classes: int, class_label: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Unit noise [B, *shape] and class numbers int64 [B], or None for an unconditional model.

    class_label replaces the drawn class; the class is drawn all the same, so later draws do not move.
    """
    noise = draws.normal(shape)
    if num_classes == 0:
        return noise, None
    classes = draws.integers(num_classes)
    if class_label is not None:
        classes = torch.full_like(classes, class_label)
    return noise, classes
