"""STORK-2 (arXiv 2505.24210): stabilised Runge-Kutta stages on extrapolated noise."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from erk_bench.sampling.deis import lagrange
from erk_bench.sampling.multistep import combined, past_nodes
from erk_bench.sampling.schedules import vp_beta, vp_sigma, vp_time
from erk_bench.sampling.steps import Node, Slope, Step


def stork_step(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    stages: int = 50,
) -> Step:
    """One evaluation, then `stages` stages of a stabilised Runge-Kutta method, which need none.

    In VP time t and y = x / sqrt(1 + sigma^2) the equation is dy/dt = beta/2 (noise / share - y) with
    share = sigma / sqrt(1 + sigma^2); its linear part is stiff, and the stages keep it stable over long
    steps. The noise within the step is the polynomial through this and the last two evaluations, as many as
    there are.
    """
    node = Node(x, slope(x, sigma), sigma)
    nodes = past_nodes(node, history, 3)
    scale, *weights = _weights(tuple(each.sigma for each in nodes), sigma_next, stages)
    return Step(combined(scale * x, nodes, weights), node, None, sigma - sigma_next, None)


@functools.cache
def _weights(sigmas: tuple[float, ...], sigma_next: float, stages: int) -> tuple[float, ...]:
    """The step is linear in the state and the evaluations: the stages, on the coefficients of these.

    Runge-Kutta-Gegenbauer method of second order (Skaras, Saxton, Meyer, Aslam, J. Comput. Phys. 425, 2021):
    stability polynomials a_j + b_j C_j(1 + w z) with Gegenbauer's C_j of index 3/2.
    """
    times = [vp_time(sigma) for sigma in sigmas]
    start, span = times[0], vp_time(sigma_next) - times[0]
    reach = (stages - 1) * (stages + 4)
    w = 6 / reach

    def rate(y: NDArray[np.float64], t: float) -> NDArray[np.float64]:
        level = vp_sigma(t)
        noise = np.array([0.0, *(lagrange(t, times, index) for index in range(len(times)))])
        return 0.5 * vp_beta(t) * (noise * math.hypot(1, level) / level - y)

    def b(j: int) -> float:
        return 1 / (1 + 2 * j) if j < 2 else 4 * (j - 1) * (j + 4) / (3 * j * (j + 1) * (j + 2) * (j + 3))

    at_start = np.array([1 / math.hypot(1, sigmas[0]), *[0.0] * len(times)])
    first = rate(at_start, start)
    older, newer, t = at_start, at_start + w * span * first, start + w * span
    for j in range(2, stages + 1):
        mu = (2 * j + 1) / j * b(j) / b(j - 1)
        nu = -(j + 1) / j * b(j) / b(j - 2)
        a = 1 - j * (j + 1) / 2 * b(j - 1)
        stage = mu * newer + nu * older + (1 - mu - nu) * at_start
        stage += mu * w * span * (rate(newer, t) - a * first)
        older, newer, t = newer, stage, start + (j - 1) * (j + 4) / reach * span
    return tuple(float(weight) for weight in newer * math.hypot(1, sigma_next))
