"""Multistep in the angle theta = arctan(sigma / sigma_data), on what an EDM network itself gives out.

Derivation: docs/theory.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from erk_bench.sampling.multistep import lagrange_integrals, past_nodes
from erk_bench.sampling.schedules import SIGMA_DATA
from erk_bench.sampling.steps import Node, Slope, Step


def angle_step(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    max_order: int = 2,
    sigma_data: float = SIGMA_DATA,
    basis: str = "polynomial",
    corrector: bool = False,
) -> Step:
    """Adams-Bashforth of `max_order` evaluations in the coordinates of TrigFlow (arXiv 2410.11081).

    With y = x / sqrt(sigma^2 + sigma_data^2) the equation is dy/dtheta = -F, where F is the network's output
    under EDM's preconditioning: D = c_skip x + c_out F. F is extrapolated by a polynomial in theta, or
    ("trigonometric") by sin, cos, 1, theta, as many as there are evaluations. corrector: each evaluation also
    corrects the step that led to it (Adams-Moulton), as UniPC's does. sigma_next may be zero. The pair of
    ERK-Guid is this evaluation and the last one, carried to the same noise level along the angle.
    """
    node = Node(x, slope(x, sigma), sigma)
    nodes = past_nodes(node, history, max_order + corrector)
    weights = _weights(
        tuple(each.sigma for each in nodes), sigma_next, sigma_data, basis, max_order, corrector
    )
    reach = math.hypot(sigma_next, sigma_data)
    x_next = reach / math.hypot(sigma, sigma_data) * x
    for each, weight in zip(nodes, weights, strict=True):
        # F = (sigma x / length - length slope) / sigma_data
        length, scale = math.hypot(each.sigma, sigma_data), weight * reach / sigma_data
        x_next = x_next + scale * length * each.slope - scale * each.sigma / length * each.x
    partner = _carried(history[-1].node, sigma, sigma_data) if history else None
    return Step(x_next, node, partner, sigma - sigma_next, None)


def _carried(node: Node, sigma: float, sigma_data: float) -> Node:
    """The node at another noise level, with the same scaled state y and the same output F."""
    before, length = math.hypot(node.sigma, sigma_data), math.hypot(sigma, sigma_data)
    x = (length / before) * node.x
    # slope = (sigma y - sigma_data F) / length
    turned = (sigma - node.sigma) / (before * length)
    return Node(x, (before / length) * node.slope + turned * node.x, sigma)


@functools.cache
def _weights(
    sigmas: tuple[float, ...],
    sigma_next: float,
    sigma_data: float,
    basis: str,
    max_order: int,
    corrector: bool,
) -> tuple[float, ...]:
    """Weights of the network's outputs at the sigmas, the latest first.

    They are those of the step to sigma_next and, with the corrector, what the latest output changes in the
    step that led to it.
    """
    angles = [math.atan(sigma / sigma_data) for sigma in sigmas]
    integrals = _polynomial if basis == "polynomial" else _trigonometric
    weights = np.zeros(len(angles))
    predicting = angles[:max_order]
    weights[: len(predicting)] = integrals(predicting, angles[0], math.atan(sigma_next / sigma_data))
    if corrector and len(angles) > 1:
        weights += integrals(angles, angles[1], angles[0])
        weights[1:] -= integrals(angles[1:], angles[1], angles[0])
    return tuple(weights.tolist())


def _polynomial(points: Sequence[float], start: float, end: float) -> Sequence[float]:
    return lagrange_integrals(points, start, end)


def _trigonometric(points: Sequence[float], start: float, end: float) -> Sequence[float]:
    """The same with sin, cos, 1, theta, theta^2, as many as points, in place of powers of theta."""
    at, powers = np.array(points), range(1, 4)
    values = [np.sin(at), np.cos(at), *(at ** (power - 1) for power in powers)]
    integrals = [math.cos(start) - math.cos(end), math.sin(end) - math.sin(start)]
    integrals += [(end**power - start**power) / power for power in powers]
    found: list[float] = np.linalg.solve(values[: len(at)], integrals[: len(at)]).tolist()
    return found
