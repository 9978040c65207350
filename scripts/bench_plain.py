"""The plain ways that the benchmark compares with: what a first version of this program would do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from erk_bench.networks.checkpoint import Checkpoint, make_network
from erk_bench.networks.denoiser import EDMPreconditioned
from erk_bench.sampling.corrections import Correct, Corrected
from erk_bench.sampling.steps import Step


def einsum_attention(q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object) -> Tensor:
    """Attention [..., L, C] that writes its whole weight matrix [..., L, L]."""
    weights = torch.einsum("...qc,...kc->...qk", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("...qk,...kc->...qc", weights.softmax(dim=-1), v)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Within, every network attends by `einsum_attention`."""
    with patch.object(torch.nn.functional, "scaled_dot_product_attention", einsum_attention):
        yield


def unfolded(
    checkpoint: Checkpoint, device: torch.device | str = "cpu", compute_dtype: torch.dtype = torch.float32
) -> EDMPreconditioned:
    """The network that normalises its weights at every call, in the default memory layout."""
    network = make_network(checkpoint.architecture)
    network.load_state_dict(dict(checkpoint.weights))
    network.compute_dtype = compute_dtype
    return EDMPreconditioned(network).eval().requires_grad_(False).to(device)


def plain_erk_guid(w_stiff: float, w_con: float) -> Correct:
    """ERK-Guid as its formulas are written: every norm, direction and product by itself."""

    def norm(x: Tensor) -> Tensor:
        return x.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()

    def correct(step: Step) -> Corrected:
        if step.partner is None:
            return Corrected(step.x_next, None, None)
        dx = step.node.x - step.partner.x
        df = step.node.slope - step.partner.slope
        stiffness = norm(df) / (norm(dx) + 1e-8)
        direction = df / (norm(df) + 1e-8)
        along = (direction * step.node.slope).sum(dim=(1, 2, 3), keepdim=True)
        z = w_stiff * abs(step.span) * stiffness
        changed = step.x_next - step.span * z**2 * along * direction
        gate = stiffness > w_con
        return Corrected(torch.where(gate, changed, step.x_next), stiffness.flatten(), gate.flatten())

    return correct


def scipy_sqrtm(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> float:
    """Frechet distance by the matrix square root of the product."""
    root = scipy.linalg.sqrtm(sigma1.numpy() @ sigma2.numpy())
    return float((mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * np.trace(root).real)
