"""Between a model's own state and time (x_t, t) and ours, x = data + sigma * noise: what its output says.

Numbers and tensors serve alike as times and noise levels; a tensor's shape must broadcast with the state's.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", Tensor, float)


class StateAt(NamedTuple):
    """A state NCHW and its time or noise level: (x_t, t), or (x, sigma)."""

    x: Tensor
    at: Tensor | float


class Path(Protocol):
    """How a model was trained to see noise, and what it predicts."""

    def to_native(self, x: Tensor, sigma: Number) -> StateAt:
        """(x_t, t) of (x, sigma)."""

    def from_native(self, x_t: Tensor, t: Number) -> StateAt:
        """(x, sigma) of (x_t, t)."""

    def denoised(self, x: Tensor, sigma: Number, output: Tensor) -> Tensor:
        """The denoised image from the model's output at (x, sigma)."""


@dataclass(frozen=True)
class LinearPath:
    """x_t = (1 - u) data + u noise_scale * noise for a share u of noise: flow matching (arXiv 2210.02747).

    predicts: "velocity", which is dx_t/dt, or "data". data_time: the model's own time of data, 1 (t = 1 - u)
    or 0 (t = u). least_share: where a velocity is made of predicted data, it is divided by no less.
    """

    predicts: str = "velocity"
    data_time: int = 1
    noise_scale: float = 1.0
    least_share: float = 0.0

    def time_of(self, share: Number) -> Number:
        """The model's own time at a share of noise; the same map leads back."""
        return 1 - share if self.data_time else share

    def share(self, sigma: Number) -> Number:
        """The share of noise in x_t at a noise level."""
        return sigma / (self.noise_scale + sigma)

    def to_native(self, x: Tensor, sigma: Number) -> StateAt:
        clean = self.noise_scale / (self.noise_scale + sigma)
        return StateAt(x * clean, clean if self.data_time else self.share(sigma))

    def from_native(self, x_t: Tensor, t: Number) -> StateAt:
        share = self.time_of(t)
        return StateAt(x_t / (1 - share), self.noise_scale * share / (1 - share))

    def denoised(self, x: Tensor, sigma: Number, output: Tensor) -> Tensor:
        if self.predicts == "data":
            return output
        change = self.share(sigma) * output
        x_t = self.to_native(x, sigma).x
        return x_t + change if self.data_time else x_t - change

    def slope(self, x_t: Tensor, share: float | Tensor, output: Tensor) -> Tensor:
        """dx_t/dshare, from data to noise, from the model's output at (x_t, t)."""
        if self.predicts == "velocity":
            return -output if self.data_time else output
        if isinstance(share, Tensor):
            return (x_t - output) / share.clamp(min=self.least_share)
        return (x_t - output) / max(share, self.least_share)


NUM_TIMES = 1000
FIRST_BETA, LAST_BETA = 1e-4, 0.02
WHOLE = 1e-3  # a time so near to a whole number is meant to be that


@functools.cache
def ddpm_sigmas() -> Tensor:
    """Noise levels of the discrete process with linear betas (arXiv 2006.11239), float64 [1000], rising."""
    with torch.inference_mode(False):
        betas = torch.linspace(FIRST_BETA, LAST_BETA, NUM_TIMES, dtype=torch.float64, device="cpu")
        kept = (1 - betas).cumprod(0)
        return ((1 - kept) / kept).sqrt()


@dataclass(frozen=True, eq=False)
class DiscretePath:
    """x_t = x / sqrt(1 + sigma^2) at noise levels, of which a time is the number.

    levels: float64 [N], rising. Between two the time is a fraction, linear in log sigma; beyond them it is
    the first or the last. predicts: "noise", "data", or "velocity": noise and data, each times the other's
    share, (noise - sigma data) / sqrt(1 + sigma^2) (arXiv 2202.00512).
    """

    levels: Tensor
    predicts: str = "noise"

    def to_native(self, x: Tensor, sigma: Number) -> StateAt:
        level = torch.as_tensor(sigma, dtype=torch.float64)
        above = torch.searchsorted(self.levels, level.contiguous()).clamp(1, len(self.levels) - 1)
        low, high = self.levels[above - 1], self.levels[above]
        time = above - 1 + ((level / low).log() / (high / low).log()).clamp(0, 1)
        whole = time.round()
        time = torch.where((time - whole).abs() < WHOLE, whole, time)
        return StateAt(x / (1 + sigma**2) ** 0.5, time)

    def from_native(self, x_t: Tensor, t: Number) -> StateAt:
        time = torch.as_tensor(t, dtype=torch.float64)
        below = time.floor().clamp(0, len(self.levels) - 2).long()
        logs = self.levels.log()
        sigma = torch.lerp(logs[below], logs[below + 1], time - below).exp()
        return StateAt(x_t * (1 + sigma**2) ** 0.5, sigma)

    def denoised(self, x: Tensor, sigma: Number, output: Tensor) -> Tensor:
        if self.predicts == "data":
            return output
        if self.predicts == "velocity":
            total = 1 + sigma**2
            return x / total - sigma / total**0.5 * output
        return x - sigma * output
