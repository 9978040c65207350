"""SiT's network as its paper's formulas are written (arXiv 2401.08740): what ours is compared with.

Nothing is folded or joined, and every part is a module of torch. Its state dict has the published names.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erk_bench.networks.sizes import architecture


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x normalised over its channels, scaled and shifted for each sample."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, -1)
        x = x + gate1[:, None] * self.attn(modulated(x, shift1, scale1))
        inner = F.gelu(self.mlp["fc1"](modulated(x, shift2, scale2)), approximate="tanh")
        out: Tensor = x + gate2[:, None] * self.mlp["fc2"](inner)
        return out


class FinalLayer(nn.Module):
    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.linear(modulated(x, *self.adaLN_modulation(condition).chunk(2, -1)))
        return out


class PlainSiT(nn.Module):
    """network(x, t, classes): x [B, C, H, W]; t [B], 1 at data; classes int64 [B]. All output channels."""

    def __init__(
        self,
        side: int,
        channels: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        outputs: int,
        rows: int,
    ) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, (side // patch) ** 2, width))
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(channels, width, patch, patch)})
        layers = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.t_embedder = nn.ModuleDict({"mlp": layers})
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(rows, width)})
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.final_layer = FinalLayer(width, patch**2 * outputs)
        self.patch, self.side = patch, side

    def forward(self, x: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        rates = torch.exp(-math.log(10000) / 128 * torch.arange(128, device=x.device))
        waves = torch.cat([torch.cos(t[:, None] * rates), torch.sin(t[:, None] * rates)], dim=-1)
        condition = self.t_embedder["mlp"](waves) + self.y_embedder["embedding_table"](classes)
        tokens = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens, condition)
        patches = self.final_layer(tokens, condition).unflatten(-1, (self.patch**2, -1))
        return F.fold(patches.permute(0, 3, 2, 1).flatten(1, 2), self.side, self.patch, stride=self.patch)


def plain_network(size: str) -> PlainSiT:
    """A published size of SiT (key of SIZES), with torch's initial values."""
    given = architecture(size).arguments
    channels = given["img_channels"]
    return PlainSiT(
        given["img_resolution"], channels, given["patch_size"], given["hidden_size"], given["depth"],
        given["num_heads"], channels * given.get("output_factor", 1), given["num_classes"] + 1,
    )  # fmt: skip
