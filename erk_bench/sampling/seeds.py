"""Randomness that belongs to a seed: the same sample whatever the batch, rank or launcher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class SeededDraws:
    """One random generator a seed; draws keep their order: noise, then label, then any fresh noise.

    seeds: any integers, taken modulo 2^32. CPU and CUDA generators give different numbers.
    Source of the convention: the published EDM2 sampler.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._generators = [torch.Generator(self.device).manual_seed(int(seed) % 2**32) for seed in seeds]

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal [num_seeds, *shape]."""
        return torch.stack(
            [
                torch.randn(tuple(shape), generator=generator, device=self.device, dtype=dtype)
                for generator in self._generators
            ]
        )

    def integers(self, high: int) -> Tensor:
        """Uniform integers of 0..high-1, int64 [num_seeds]."""
        return torch.cat(
            [
                torch.randint(high, (1,), generator=generator, device=self.device)
                for generator in self._generators
            ]
        )

    def normal_like(self, x: Tensor) -> Tensor:
        """Fresh normal noise of x's shape and dtype; x's batch must match the seeds."""
        return self.normal(x.shape[1:], x.dtype).to(x.device)


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
