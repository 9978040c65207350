"""Magnitude-preserving building blocks of EDM2.

Source: Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models"
(arXiv 2312.02696), appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erk_bench.networks.initial import normal_values, uniform_values

NORM_EPS = 1e-4
SILU_GAIN = 0.596  # root mean square of silu(x) for a standard normal x


def normalize(x: Tensor, dim: int | None = None) -> Tensor:
    """Scale x to unit root mean square over `dim`, or over all dimensions but the first.

    The mean square is taken in float32; as a mean it is faster on a CPU than a vector norm. In half
    precision, which is for GPUs, it is a norm: that makes no float32 copy of x.
    """
    dims = [dim] if dim is not None else list(range(1, x.ndim))
    if x.dtype in (torch.float16, torch.bfloat16):
        norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float32)
        return x / (NORM_EPS + norm / math.sqrt(x.numel() / norm.numel())).to(x.dtype)
    # The floor keeps the square root's gradient finite for an all-zero vector; it moves no other value.
    rms = x.float().square().mean(dims, keepdim=True).clamp_min(1e-30).sqrt()
    return x / (NORM_EPS + rms).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """silu that keeps the magnitude of a standard normal input (eq. 81)."""
    return F.silu(x) / SILU_GAIN


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Magnitude-preserving blend of a and b (eq. 88)."""
    return a.lerp(b, t) / math.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Magnitude-preserving concatenation over channels (eq. 103)."""
    num_a, num_b = a.shape[1], b.shape[1]
    scale = math.sqrt((num_a + num_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (scale * (1 - t) / math.sqrt(num_a)), b * (scale * t / math.sqrt(num_b))], dim=1)


def filter_kernel(taps: Sequence[float]) -> Tensor:
    """The kernel [1, 1, K, K] of a separable filter of sum 1, float32."""
    row = torch.tensor(taps, dtype=torch.float32)
    row = row / row.sum()
    return torch.outer(row, row)[None, None]


def resample(x: Tensor, kernel: Tensor, mode: str) -> Tensor:
    """Halve ("down") or double ("up") the resolution with a `filter_kernel`."""
    padding = (kernel.shape[-1] - 1) // 2
    channels = x.shape[1]
    kernel = kernel.to(x).expand(channels, 1, -1, -1)
    if mode == "down":
        return F.conv2d(x, kernel, stride=2, padding=padding, groups=channels)
    return F.conv_transpose2d(x, kernel * 4, stride=2, padding=padding, groups=channels)


class MPFourier(nn.Module):
    """Random Fourier features of a noise level, [B] -> [B, channels]."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", normal_values(channels, scale=2 * math.pi))
        self.register_buffer("phases", uniform_values(channels, scale=2 * math.pi))

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.outer(x.float(), self.freqs.float()) + self.phases.float()
        return (angle.cos() * math.sqrt(2)).to(x.dtype)


class MPConv(nn.Module):
    """Convolution (or linear layer, for an empty kernel) whose weight rows have unit norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal_values(out_channels, in_channels, *kernel))
        self.folded = False

    def effective_weight(self, gain: Tensor | float = 1.0) -> Tensor:
        """The float32 weight that multiplies the input.

        gain / sqrt(fan_in) is computed in the gain's own dtype: published snapshots hold float16
        gains, and their product is rounded to half precision even in a float32 run.
        """
        return normalize(self.weight.float()) * (gain / math.sqrt(self.weight[0].numel()))

    @torch.no_grad()
    def fold(
        self,
        gain: Tensor | float,
        dtype: torch.dtype,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> None:
        """Replace the weight by its effective value, once, for inference in `dtype`.

        memory_format: of the weight, if it is of a convolution.
        """
        weight = self.effective_weight(gain).to(dtype)
        if weight.ndim == 4:
            weight = weight.to(memory_format=memory_format)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.folded = True

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        weight = self.weight if self.folded else self.effective_weight(gain)
        weight = weight.to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
