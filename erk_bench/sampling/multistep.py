"""Linear multistep solvers in sigma: one evaluation a step, slopes of earlier steps extrapolated."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor

from erk_bench.sampling.steps import Node, Slope, Step

# Adams-Bashforth weights for equal steps, the latest slope first.
ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def past_nodes(node: Node, history: Sequence[Step], order: int) -> list[Node]:
    """This step's node and those before it, the latest first, as many as the order needs and there are."""
    return [node, *(step.node for step in reversed(history))][:order]


def combined(x: Tensor, nodes: Sequence[Node], weights: Sequence[float]) -> Tensor:
    """x + sum of weight times slope."""
    for node, weight in zip(nodes, weights, strict=True):
        x = x + weight * node.slope
    return x


def ipndm_step(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    max_order: int = 4,
) -> Step:
    """Improved PNDM (arXiv 2204.13902, section 3.4): Adams-Bashforth weights of equal steps.

    The steps are not equal, so its order of convergence is 1; it is used for its small errors at few steps.
    """
    node = Node(x, slope(x, sigma), sigma)
    nodes = past_nodes(node, history, max_order)
    h = sigma - sigma_next
    weights = [-h * weight for weight in ADAMS_BASHFORTH[len(nodes)]]
    return Step(combined(x, nodes, weights), node, None, h, None)


def ipndm_v_step(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    max_order: int = 4,
    exact: bool = False,
) -> Step:
    """iPNDM with Adams-Bashforth weights of the true, unequal steps (a variant of zju-pi/diff-sampler).

    exact: the weights that integrate the extrapolating polynomial. The published program's differ from them
    (see `published_weights`); with those the order of convergence is 2.
    """
    node = Node(x, slope(x, sigma), sigma)
    nodes = past_nodes(node, history, max_order)
    sigmas = [each.sigma for each in nodes]
    if exact:
        weights = lagrange_integrals(sigmas, sigma, sigma_next)
    else:
        weights = published_weights([*reversed(sigmas), sigma_next])
    return Step(combined(x, nodes, weights), node, None, sigma - sigma_next, None)


def published_weights(sigmas: Sequence[float]) -> list[float]:
    """Weights of the published iPNDM_v for slopes at all sigmas but the last, the latest first.

    They are the exact ones, written with divided differences of second and third order, with three
    departures: the factor of the second (`bend`) takes its product before the subtraction, that of the third
    (`twist`) adds a term that should be subtracted, and the oldest of four slopes has h1/h2 for h2/h3.
    """
    h, *past = [b - a for a, b in itertools.pairwise(sigmas)][::-1]
    if not past:
        return [h]
    h1 = past[0]
    tilt = h / h1 / 2
    if len(past) == 1:
        return [h * (1 + tilt), -h * tilt]
    h2 = past[1]
    third = h / (3 * (h + h1))
    bend = (1 - third * h * (h + h1) / (h1 * (h1 + h2))) / 2
    weights = [1 + tilt + bend, -tilt - bend * (1 + h1 / h2), bend * h1 / h2]
    if len(past) == 3:
        h3 = past[2]
        added = (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
        span = h * (h + h1) * (h + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
        twist = ((1 - third) / 2 + added) * span
        step = h1 * (h1 + h2) / (h2 * (h2 + h3))
        weights[0] += twist
        weights[1] -= twist * (1 + h1 / h2 + step)
        weights[2] += twist * (h1 / h2 + step * (1 + h2 / h3))
        weights.append(-twist * step * h1 / h2)
    return [h * weight for weight in weights]


def lagrange_integrals(points: Sequence[float], start: float, end: float) -> list[float]:
    """Integrals from start to end of the Lagrange basis polynomials of the points, exactly (up to four)."""
    # Relative to `start`, so that powers of large sigmas do not cancel.
    shifted = [point - start for point in points]
    length = end - start
    integrals = []
    for index, own in enumerate(shifted):
        polynomial = [1.0]  # coefficients, the constant first
        for other in shifted[:index] + shifted[index + 1 :]:
            scale = 1 / (own - other)
            longer = [0.0, *(coefficient * scale for coefficient in polynomial)]
            for power, coefficient in enumerate(polynomial):
                longer[power] -= coefficient * scale * other
            polynomial = longer
        powers = enumerate(polynomial, start=1)
        integrals.append(sum(coefficient * length**power / power for power, coefficient in powers))
    return integrals
