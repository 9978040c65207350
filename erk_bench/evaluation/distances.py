"""Distances between two blocks of features, as published programs compute them, and their rule of "inside".

Which image is inside a radius may hang on the last bit, so each rule has the number types of its program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Rule(NamedTuple):
    """How a program of precision and recall decides.

    distances: of features [n, D] and [m, D], float32 [n, m]. strict: whether a point on the edge of a ball
    is outside. mean: number type of its means.
    """

    distances: Callable[[Tensor, Tensor], Tensor]
    strict: bool
    mean: torch.dtype = torch.float64

    def inside(self, distances: Tensor, radii: Tensor) -> Tensor:
        """Which distances are within the radii, bool."""
        return distances < radii if self.strict else distances <= radii


def euclidean_in_float64(x: Tensor, y: Tensor) -> Tensor:
    """scikit-learn's Euclidean distances of float32 features: squares in float64, the rest in float32."""
    wide, other = x.double(), y.double()
    squares = wide @ other.T
    squares.mul_(-2).add_(wide.square().sum(1)[:, None]).add_(other.square().sum(1))
    return squares.float().clamp_(min=0).sqrt_()


def squares_in_float16(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances of half precision, or of float32 where one of the block overflows.

    Sums of products are in float32, then rounded, as a library with wider accumulators has them.
    """
    half, other = x.half(), y.half()
    squares = (half.float() @ other.float().T).half().mul_(-2)
    norms, other_norms = (each.float().square().sum(1).half() for each in (half, other))
    squares.add_(norms[:, None]).add_(other_norms).clamp_(min=0)
    if squares.isfinite().all():
        return squares.float()
    del squares
    whole = (x @ y.T).mul_(-2)
    return whole.add_(x.square().sum(1)[:, None]).add_(y.square().sum(1)).clamp_(min=0)


FIDELITY = Rule(torch.cdist, strict=False, mean=torch.float32)
PRDC = Rule(euclidean_in_float64, strict=True)
ADM = Rule(squares_in_float16, strict=False)
