"""Attention over pixels: by fused kernels, or by the products that the published programs compute."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Queries, keys and values [B, heads, pixels, C] -> [B, heads, pixels, C].
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One kernel, which keeps no matrix of pixels by pixels."""
    return F.scaled_dot_product_attention(q, k, v)


def by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k / sqrt(C)) v by two products in the network's dtype, as EDM2 (arXiv 2312.02696) samples."""
    scores = torch.einsum("bhqc,bhkc->bhqk", q, k / math.sqrt(k.shape[-1]))
    return torch.einsum("bhqk,bhkc->bhqc", scores.softmax(dim=-1), v)


def by_float32_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same with weights computed in float32, whatever the network's dtype, as EDM (arXiv 2206.00364)."""
    scores = torch.einsum("bhqc,bhkc->bhqk", q.float(), (k / math.sqrt(k.shape[-1])).float())
    return torch.einsum("bhqk,bhkc->bhqc", scores.softmax(dim=-1).to(q.dtype), v)
