"""SDM (arXiv 2602.12624): Euler's method where the trajectory is straight, Heun's where it bends."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from erk_bench.base.transfers import rows_where
from erk_bench.sampling.steps import Node, Slope, Step


def sdm_step(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    levels: Sequence[float],
    blend: str = "step",
    tau: float = 1e-4,
    batch_rule: bool = False,
) -> Step:
    """lambda Euler + (1 - lambda) Heun; where lambda is 1, Heun's second evaluation is saved.

    blend: what lambda is. "step": 1 until the curvature

        kappa = |f - f_before| / (|f_before| (sigma_before - sigma))

    of the slopes f of this step and the one before first reaches tau, and 0 from that step on; kappa is 0 in
    the first step, so tau = 0 is Heun's method, and an infinite tau Euler's. "linear" and "cosine": 1 - p and
    (1 + cos(pi p)) / 2 at the share p = i / (N - 1) of step i of N levels; tau is not used.
    batch_rule: the mean of kappa over the batch decides for all of its samples, as in the published program.
    Else each sample switches by itself, and depends on its own seed alone.
    """
    h = sigma - sigma_next
    node = Node(x, slope(x, sigma), sigma)
    euler = x - h * node.slope
    if blend != "step":
        p = (levels.index(sigma_next) - 1) / (len(levels) - 1)
        weight = 1 - p if blend == "linear" else 0.5 * (1 + math.cos(math.pi * p))
        if weight == 1:
            return Step(euler, node, None, h, None)
        heun = x - h * (0.5 * node.slope + 0.5 * slope(euler, sigma_next))
        return Step(weight * euler + (1 - weight) * heun, node, None, h, None)
    bends = _curvature(node, history, batch_rule) >= tau
    if history and history[-1].switched is not None:
        bends = bends | history[-1].switched
    (rows,) = rows_where(bends)
    x_next = euler
    if len(rows):
        x_next = euler.clone()
        ahead = slope(euler[rows], sigma_next, rows)
        x_next[rows] = x[rows] - h * (0.5 * node.slope[rows] + 0.5 * ahead)
    return Step(x_next, node, None, h, None, bends)


def _curvature(node: Node, history: Sequence[Step], batch_rule: bool) -> Tensor:
    """kappa of each sample [B]; with the batch's rule the mean of all."""
    if not history:
        return torch.zeros(len(node.x), dtype=node.x.dtype, device=node.x.device)
    before = history[-1].node
    bend = (node.slope - before.slope).flatten(1).norm(dim=1)
    kappa = bend / (before.slope.flatten(1).norm(dim=1) * (before.sigma - node.sigma))
    return kappa.mean().expand(len(kappa)) if batch_rule else kappa
