"""Building blocks of the EDM1 denoisers: convolutions that resample, group norms, embeddings, one block.

Sources: EDM (arXiv 2206.00364, appendix F.2), ADM (arXiv 2105.05233), Score SDE (arXiv 2011.13456).
Module and parameter names are those of published state dicts, so that weights load by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erk_bench.networks.attention import Attention, fused
from erk_bench.networks.initial import normal_values

MAX_POSITIONS = 10_000  # slowest wavelength of the positional embedding
FOURIER_SCALE = 16.0  # standard deviation of the Fourier embedding's frequencies


def positional_embedding(x: Tensor, channels: int, endpoint: bool) -> Tensor:
    """cos and sin of x [B] at geometric frequencies from 1 down to 1/MAX_POSITIONS: [B, channels].

    endpoint: whether the last frequency is reached (DDPM++) or the one after the last would be (ADM).
    """
    half = channels // 2
    share = torch.arange(half, dtype=torch.float32, device=x.device) / (half - endpoint)
    angle = torch.outer(x, MAX_POSITIONS**-share)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """cos and sin of x [B] at random frequencies: [B, channels] (NCSN++)."""

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", normal_values(channels // 2, scale=FOURIER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.outer(x, 2 * math.pi * self.freqs.float())
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class Conv2d(nn.Module):
    """Convolution, if it has a kernel, after halving ("down") or doubling ("up") the resolution.

    resample_filter: taps of the separable filter. late: the filter acts after the convolution and sees its
    values beyond the border too (NCSN++'s residual inputs).
    """

    weight: nn.Parameter | None
    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        mode: str = "keep",
        resample_filter: Sequence[float] = (1, 1),
        late: bool = False,
    ) -> None:
        super().__init__()
        self.mode, self.late = mode, late
        if kernel:
            self.weight = nn.Parameter(normal_values(out_channels, in_channels, kernel, kernel))
            self.bias = nn.Parameter(torch.zeros(out_channels))
        else:
            self.weight = None
        if mode != "keep":
            taps = torch.tensor(resample_filter, dtype=torch.float32)
            taps = taps / taps.sum()
            self.register_buffer("resample_filter", torch.outer(taps, taps)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        if self.late:
            return self._late(x)
        if self.mode != "keep":
            x = self._resampled(x, (self.resample_filter.shape[-1] - 1) // 2)
        if self.weight is None:
            return x
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)

    def _late(self, x: Tensor) -> Tensor:
        assert self.weight is not None and self.mode == "down"
        margin = (self.resample_filter.shape[-1] - 1) // 2
        x = F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2 + margin)
        return self._resampled(x, 0) + self.bias.reshape(1, -1, 1, 1)

    def _resampled(self, x: Tensor, padding: int) -> Tensor:
        channels = x.shape[1]
        kernel = self.resample_filter.to(x.dtype).expand(channels, 1, -1, -1)
        if self.mode == "down":
            return F.conv2d(x, kernel, stride=2, padding=padding, groups=channels)
        return F.conv_transpose2d(x, kernel * 4, stride=2, padding=padding, groups=channels)


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """At most 32 groups of at least 4 channels."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=eps)


class UNetBlockOptions(NamedTuple):
    """What all blocks of one network share.

    channels_per_head: of attention; None is a single head. skip_scale: of every sum. resample_proj: whether a
    resampling block's skip has a convolution of its own. adaptive_scale: whether the embedding scales and
    shifts after the norm (ADM) or is added before it.
    """

    emb_channels: int
    dropout: float
    channels_per_head: int | None = 64
    skip_scale: float = 1.0
    eps: float = 1e-5
    resample_filter: tuple[float, ...] = (1, 1)
    resample_proj: bool = False
    adaptive_scale: bool = True


class UNetBlock(nn.Module):
    """Residual block with optional resampling and self-attention."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: UNetBlockOptions,
        mode: str = "keep",
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.options = in_channels, out_channels, options
        self.attention: Attention = fused
        per_head = options.channels_per_head
        # Below channels_per_head there is no head: published blocks silently go without attention.
        self.num_heads = (out_channels // per_head if per_head else 1) if attention else 0
        if self.num_heads and out_channels % self.num_heads:
            raise ValueError(f"{out_channels} channels cannot be split into {self.num_heads} heads")
        taps = options.resample_filter
        self.norm0 = group_norm(in_channels, options.eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, mode, taps)
        self.affine = nn.Linear(options.emb_channels, out_channels * (2 if options.adaptive_scale else 1))
        self.norm1 = group_norm(out_channels, options.eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3)
        self.skip = None
        if out_channels != in_channels or mode != "keep":
            kernel = 1 if out_channels != in_channels or options.resample_proj else 0
            self.skip = Conv2d(in_channels, out_channels, kernel, mode, taps)
        if self.num_heads:
            self.norm2 = group_norm(out_channels, options.eps)
            self.qkv = Conv2d(out_channels, out_channels * 3, 1)
            self.proj = Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        options = self.options
        y = self.conv0(F.silu(self.norm0(x)))
        params = self.affine(emb)[:, :, None, None].to(y.dtype)
        if options.adaptive_scale:
            scale, shift = params.chunk(2, dim=1)
            y = F.silu(torch.addcmul(shift, self.norm1(y), scale + 1))
        else:
            y = F.silu(self.norm1(y + params))
        y = self.conv1(F.dropout(y, p=options.dropout, training=self.training))
        x = (y + (x if self.skip is None else self.skip(x))) * options.skip_scale
        if self.num_heads:
            x = (self.proj(self._attended(self.qkv(self.norm2(x)))) + x) * options.skip_scale
        return x

    def _attended(self, qkv: Tensor) -> Tensor:
        """Self-attention over pixels; q, k and v interleave inside each head's channels."""
        batch, channels, height, width = qkv.shape
        parts = qkv.reshape(batch, self.num_heads, -1, 3, height * width)
        # [3, B, heads, HW, C_head], contiguous: the fused kernels take nothing else.
        q, k, v = parts.permute(3, 0, 1, 4, 2).contiguous().unbind(0)
        y = self.attention(q, k, v)
        return y.transpose(2, 3).reshape(batch, channels // 3, height, width)
