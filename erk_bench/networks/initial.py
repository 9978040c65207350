"""Random initial values of weights.

On the meta device there is nothing to draw. Asked to draw or multiply there, torch would import its symbolic
shapes first, which takes longer than loading a small network.
"""

from __future__ import annotations

import torch
from torch import Tensor


def normal_values(*shape: int, scale: float = 1.0) -> Tensor:
    """Normal numbers of standard deviation `scale`, as torch.randn draws them."""
    values = torch.empty(shape)
    return values if values.is_meta else values.normal_().mul_(scale)


def uniform_values(*shape: int, scale: float = 1.0) -> Tensor:
    """Uniform numbers of [0, scale), as torch.rand draws them."""
    values = torch.empty(shape)
    return values if values.is_meta else values.uniform_().mul_(scale)
