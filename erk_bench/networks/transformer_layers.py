"""Parts of the diffusion transformer, named as published files name them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erk_bench.networks.attention import Attention
from erk_bench.networks.positions import rotated

NORM_EPS = 1e-6
TIME_CHANNELS = 256


# torch's layers, of which none draws initial values on the meta device (see initial).
class Linear(nn.Linear):
    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class PatchConv(nn.Conv2d):
    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class LayerNorm(nn.LayerNorm):
    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class RMSNorm(nn.Module):
    """Root mean square normalisation with a weight; in float32, whatever wider type x has."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:  # rounded as the published programs do
            single = x.float()
            scale = (single.square().mean(-1, keepdim=True) + NORM_EPS).rsqrt()
            return (single * scale).double() * self.weight
        return F.rms_norm(x, self.weight.shape, self.weight, NORM_EPS)


def norm(width: int, rms: bool) -> nn.Module:
    """The norm before a modulation: RMSNorm, or LayerNorm without weights."""
    return RMSNorm(width) if rms else nn.LayerNorm(width, NORM_EPS, elementwise_affine=False)


def modulation(width: int, count: int) -> nn.Sequential:
    """What the time and the class change: `count` vectors."""
    return nn.Sequential(nn.SiLU(), Linear(width, count * width))


class PatchEmbed(nn.Module):
    """Patches to tokens: one convolution, or two with a bottleneck between them."""

    def __init__(self, channels: int, patch: int, width: int, bottleneck: int) -> None:
        super().__init__()
        self.patch, self.bottleneck = patch, bottleneck
        if bottleneck:
            self.proj1 = PatchConv(channels, bottleneck, patch, patch, bias=False)
            self.proj2 = PatchConv(bottleneck, width, 1)
        else:
            self.proj = PatchConv(channels, width, patch, patch)

    @property
    def last(self) -> PatchConv:
        """The convolution with the bias."""
        return self.proj2 if self.bottleneck else self.proj

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, T, width] of x [B, C, H, W], without the bias; a product, as patches do not overlap."""
        batch, channels, height, width = x.shape
        patch = self.patch
        cut = x.reshape(batch, channels, height // patch, patch, width // patch, patch)
        cut = cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)
        if self.bottleneck:
            cut = F.linear(cut, self.proj1.weight.flatten(1))
        return F.linear(cut, self.last.weight.flatten(1))


class TimeEmbed(nn.Module):
    """The embedding [B, width] of times t [B]."""

    freqs: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros(TIME_CHANNELS // 2), persistent=False)
        self.mlp = nn.Sequential(Linear(TIME_CHANNELS, width), nn.SiLU(), Linear(width, width))

    @property
    def weight(self) -> Tensor:
        """The first layer's."""
        found: Tensor = getattr(self.mlp[0], "weight")  # noqa: B009 - torch types it as anything
        return found

    def fold(self) -> None:
        """Compute what no file holds."""
        half = TIME_CHANNELS // 2
        numbers = torch.arange(half, dtype=torch.float32, device=self.weight.device)
        self.freqs = (numbers * (-math.log(10000) / half)).exp()

    def waves(self, t: Tensor) -> Tensor:
        """Cosines, then sines, float32: so the published programs compute them in every dtype."""
        angles = t.float()[:, None] * self.freqs.float()
        return torch.cat([angles.cos(), angles.sin()], dim=1)

    def forward(self, t: Tensor) -> Tensor:
        embedding: Tensor = self.mlp(self.waves(t).to(self.weight.dtype))
        return embedding


class SelfAttention(nn.Module):
    """Attention over tokens; qk_norm: "", "layer" or "rms", per head."""

    def __init__(self, width: int, num_heads: int, qk_norm: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        head = width // num_heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.normed = qk_norm != ""
        if self.normed:
            make = RMSNorm if qk_norm == "rms" else LayerNorm
            self.q_norm, self.k_norm = make(head), make(head)

    def forward(self, x: Tensor, attention: Attention, rotary: Tensor | None) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        qk, v = qkv[:2], qkv[2]
        if self.normed:
            qk = torch.stack([self.q_norm(qkv[0]), self.k_norm(qkv[1])])
        if rotary is not None:
            qk = rotated(qk, rotary)
        y = attention(qk[0], qk[1], v).transpose(1, 2).reshape(batch, tokens, width)
        out: Tensor = self.proj(y)
        return out


class MLP(nn.Module):
    """Two layers with a GELU between them, or with SwiGLU (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, swiglu: bool) -> None:
        super().__init__()
        self.swiglu = swiglu
        if swiglu:
            self.w12, self.w3 = Linear(width, 2 * hidden), Linear(hidden, width)
        else:
            self.fc1, self.fc2 = Linear(width, hidden), Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.swiglu:
            gate, inner = self.w12(x).chunk(2, dim=-1)
            out: Tensor = self.w3(F.silu(gate) * inner)
        else:
            out = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class TransformerBlock(nn.Module):
    """Attention and MLP, each modulated before and gated after."""

    def __init__(
        self, width: int, num_heads: int, hidden: int, qk_norm: str, rms: bool, swiglu: bool, shift: bool
    ) -> None:
        super().__init__()
        self.shift = shift
        self.norm1, self.norm2 = norm(width, rms), norm(width, rms)
        self.attn = SelfAttention(width, num_heads, qk_norm)
        self.mlp = MLP(width, hidden, swiglu)
        self.adaLN_modulation = modulation(width, 6 if shift else 4)

    def forward(self, x: Tensor, changes: Tensor, attention: Attention, rotary: Tensor | None) -> Tensor:
        """x [B, T, width]; changes [B or 1, 1, 4 or 6 times width], whose scales have the 1 added."""
        if self.shift:
            shift1, scale1, gate1, shift2, scale2, gate2 = changes.chunk(6, dim=-1)
            inner = torch.addcmul(shift1, self.norm1(x), scale1)
            x = torch.addcmul(x, gate1, self.attn(inner, attention, rotary))
            return torch.addcmul(x, gate2, self.mlp(torch.addcmul(shift2, self.norm2(x), scale2)))
        scale1, gate1, scale2, gate2 = changes.chunk(4, dim=-1)
        x = torch.addcmul(x, gate1, self.attn(self.norm1(x) * scale1, attention, rotary))
        return torch.addcmul(x, gate2, self.mlp(self.norm2(x) * scale2))

    @property
    def scales(self) -> tuple[int, ...]:
        """Which of the changes are scales."""
        return (1, 4) if self.shift else (0, 2)


class FinalLayer(nn.Module):
    """Tokens to patches of the output."""

    scales = (1,)

    def __init__(self, width: int, outputs: int, rms: bool) -> None:
        super().__init__()
        self.norm_final = norm(width, rms)
        self.linear = Linear(width, outputs)
        self.adaLN_modulation = modulation(width, 2)

    def forward(self, x: Tensor, changes: Tensor) -> Tensor:
        shift, scale = changes.chunk(2, dim=-1)
        out: Tensor = self.linear(torch.addcmul(shift, self.norm_final(x), scale))
        return out
