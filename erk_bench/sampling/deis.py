"""DEIS (arXiv 2204.13902): polynomial extrapolation of the noise prediction, integrated in closed form."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erk_bench.sampling.multistep import combined, lagrange_integrals, past_nodes
from erk_bench.sampling.schedules import vp_betas, vp_time
from erk_bench.sampling.steps import Node, Slope, Step

QUADRATURE_POINTS = 64
PUBLISHED_POINTS = 10_000


def deis_step(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    max_order: int = 4,
    mode: str = "tab",
    erk_adds: bool = True,
) -> Step:
    """DEIS of `max_order` evaluations (tAB3: four); in these coordinates the noise prediction is the slope.

    mode: the extrapolating polynomial is in VP time, its integrals as the published program sums them ("tab")
    or exact ("tab_exact"), or it is in sigma ("rhoab"). The pair of ERK-Guid is
    this and the previous step, with the previous step's size; the published program adds the correction
    (erk_adds), where other solvers subtract it.
    """
    node = Node(x, slope(x, sigma), sigma)
    nodes = past_nodes(node, history, max_order)
    weights = _weights(tuple(each.sigma for each in nodes), sigma_next, mode)
    x_next = combined(x, nodes, weights)
    if not history:
        return Step(x_next, node, None, sigma - sigma_next, None)
    partner = history[-1].node
    span = partner.sigma - sigma
    return Step(x_next, node, partner, -span if erk_adds else span, None)


@functools.cache
def _weights(sigmas: tuple[float, ...], sigma_next: float, mode: str) -> list[float]:
    """Integrals over sigma of the Lagrange basis in the mode's variable."""
    if mode == "rhoab":
        return lagrange_integrals(sigmas, sigmas[0], sigma_next)
    if mode == "tab" and len(sigmas) > 1:
        return published_tab_weights(sigmas, sigma_next)
    return tab_weights(sigmas, sigma_next)


def published_tab_weights(sigmas: Sequence[float], sigma_next: float) -> list[float]:
    """The published program's sum for `tab_weights`: in float32, which loses what is left of e^x - 1 at small
    sigmas (weights up to 1e-3 of the largest off), with the width of a cell taken from one cell too many."""
    beta_d, beta_min = vp_betas()
    levels = torch.tensor([*sigmas, sigma_next], dtype=torch.float32)
    *times, end = ((beta_min**2 + 2 * beta_d * (levels**2 + 1).log()).sqrt() - beta_min) / beta_d
    t = torch.linspace(float(times[0]), float(end), PUBLISHED_POINTS, dtype=torch.float32)
    growth = (0.5 * beta_d * t**2 + beta_min * t).exp()
    sigma_rate = (beta_d * t + beta_min) * growth / (2 * (growth - 1).sqrt())
    width = (end - times[0]) / PUBLISHED_POINTS
    return [float((lagrange(t, times, index) * sigma_rate).sum() * width) for index in range(len(times))]


def tab_weights(sigmas: Sequence[float], sigma_next: float) -> list[float]:
    """Integrals over sigma, from sigmas[0] to sigma_next, of the Lagrange basis in VP time.

    By Gauss-Legendre quadrature in log sigma, float64.
    """
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_POINTS)
    start, end = math.log(sigmas[0]), math.log(sigma_next)
    levels = np.exp(start + (end - start) * (nodes + 1) / 2)
    measure = weights * (end - start) / 2 * levels
    times = [vp_time(sigma) for sigma in sigmas]
    at = np.array([vp_time(float(level)) for level in levels])
    return [float((measure * lagrange(at, times, index)).sum()) for index in range(len(times))]


def lagrange(at: Any, times: Sequence[Any], index: int) -> Any:
    """Lagrange basis polynomial of times[index], for numbers or arrays."""
    others = [time for number, time in enumerate(times) if number != index]
    return math.prod(((at - other) / (times[index] - other) for other in others), start=0 * at + 1)
