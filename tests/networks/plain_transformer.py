"""The diffusion transformers by their formulas, from a state dict; nothing of the package is used.

Formulas: DiT (arXiv 2212.09748), LightningDiT (2501.01423), JiT (2511.13720).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def rms(x: Tensor, weight: Tensor) -> Tensor:
    """Root mean square normalisation, computed in float32."""
    single = x.float()
    return (single * (single.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype) * weight


def rotation(side: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [side^2, width] by which pairs of channels turn: half by row, half by column."""
    rates = 10000.0 ** (-torch.arange(0, width // 2, 2, dtype=torch.float64) / (width // 2))
    angles = (torch.arange(side, dtype=torch.float64)[:, None] * rates).repeat_interleave(2, dim=1)
    row, column = angles.repeat_interleave(side, dim=0), angles.repeat(side, 1)
    both = torch.cat([row, column], dim=1)
    return both.cos(), both.sin()


class PlainTransformer:
    """network(x, t, classes) of a state dict under published names; all output channels."""

    def __init__(
        self, weights: Mapping[str, Tensor], heads: int, patch: int, turns: bool, context_start: int = 0
    ) -> None:
        self.w, self.heads, self.patch = weights, heads, patch
        self.turns, self.context_start = turns, context_start

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight = self.w.get(f"{name}.weight")
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) if weight is None else rms(x, weight)

    def head_norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.w.get(f"{name}.weight"), self.w.get(f"{name}.bias")
        if weight is None:
            return x
        return rms(x, weight) if bias is None else F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)

    def __call__(self, x: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        w, patch, side = self.w, self.patch, x.shape[-1] // self.patch
        rates = torch.exp(-math.log(10000) / 128 * torch.arange(128, dtype=torch.float32))
        angles = t.float()[:, None] * rates
        waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype)
        label = w["y_embedder.embedding_table.weight"][classes]
        hidden = F.silu(self.linear(waves, "t_embedder.mlp.0"))
        condition = F.silu(self.linear(hidden, "t_embedder.mlp.2") + label)
        if "x_embedder.proj1.weight" in w:
            narrow = F.conv2d(x, w["x_embedder.proj1.weight"], stride=patch)
            tokens = F.conv2d(narrow, w["x_embedder.proj2.weight"], w["x_embedder.proj2.bias"])
        else:
            tokens = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=patch)
        tokens = tokens.flatten(2).transpose(1, 2) + w["pos_embed"]
        before = 0
        cos, sin = rotation(side, tokens.shape[-1] // self.heads)

        def turn(q: Tensor) -> Tensor:
            kept, moved = q[:, :, :before], q[:, :, before:]
            across = torch.stack([-moved[..., 1::2], moved[..., ::2]], dim=-1).flatten(-2)
            return torch.cat([kept, moved * cos + across * sin], dim=2) if self.turns else q

        for index in range(1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))):
            if "in_context_posemb" in w and index == self.context_start:
                extra = label[:, None] + w["in_context_posemb"]
                tokens, before = torch.cat([extra, tokens], dim=1), extra.shape[1]
            tokens = self.block(tokens, condition, f"blocks.{index}", turn)
        shift, scale = self.linear(condition, "final_layer.adaLN_modulation.1")[:, None].chunk(2, dim=-1)
        inner = self.norm(tokens[:, before:], "final_layer.norm_final") * (1 + scale) + shift
        out = self.linear(inner, "final_layer.linear").reshape(len(x), side, side, patch, patch, -1)
        return out.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, side * patch, side * patch)

    def block(self, x: Tensor, condition: Tensor, name: str, turn: Callable[[Tensor], Tensor]) -> Tensor:
        width = x.shape[-1]
        changes = self.linear(condition, f"{name}.adaLN_modulation.1")[:, None].split(width, dim=-1)
        if len(changes) == 4:  # without shift
            none = torch.zeros_like(changes[0])
            changes = none, changes[0], changes[1], none, changes[2], changes[3]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = changes
        inner = self.norm(x, f"{name}.norm1") * (1 + scale) + shift
        parts = self.linear(inner, f"{name}.attn.qkv").chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        q = turn(self.head_norm(q, f"{name}.attn.q_norm"))
        k = turn(self.head_norm(k, f"{name}.attn.k_norm"))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        x = x + gate * self.linear((weights @ v).transpose(1, 2).flatten(2), f"{name}.attn.proj")
        inner = self.norm(x, f"{name}.norm2") * (1 + mlp_scale) + mlp_shift
        if f"{name}.mlp.w12.weight" in self.w:
            first, second = self.linear(inner, f"{name}.mlp.w12").chunk(2, dim=-1)
            made = self.linear(F.silu(first) * second, f"{name}.mlp.w3")
        else:
            made = self.linear(
                F.gelu(self.linear(inner, f"{name}.mlp.fc1"), approximate="tanh"), f"{name}.mlp.fc2"
            )
        return x + mlp_gate * made
