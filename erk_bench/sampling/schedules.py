"""Noise schedules: decreasing sigmas from sigma_max to sigma_min."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from erk_bench.errors import UserError

Schedule = Callable[[int, float, float, float, torch.dtype], Tensor]


def polynomial(num_steps: int, sigma_min: float, sigma_max: float, rho: float, dtype: torch.dtype) -> Tensor:
    """num_steps sigmas, uniform in sigma^(1/rho) (EDM, arXiv 2206.00364 eq. 5).

    Computed in `dtype`, as the published programs do: in float32 the first sigma is 79.99998, not 80.
    """
    ramp = torch.arange(num_steps, dtype=dtype) / (num_steps - 1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (high + ramp * (low - high)) ** rho


def sigmas(
    schedule: Schedule,
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    dtype: torch.dtype,
) -> list[float]:
    """The schedule's sigmas followed by the final zero, as Python floats rounded to `dtype`."""
    if num_steps < 2:
        raise UserError(f"num_steps is {num_steps}; a schedule needs at least 2 steps")
    if not 0 < sigma_min < sigma_max:
        raise UserError(f"sigma_min {sigma_min} and sigma_max {sigma_max}: need 0 < min < max")
    if not 0.5 <= rho <= 100:
        raise UserError(f"rho is {rho}; it must be 0.5 to 100")
    return [*schedule(num_steps, sigma_min, sigma_max, rho, dtype).tolist(), 0.0]


SCHEDULES: dict[str, Schedule] = {"polynomial": polynomial}
