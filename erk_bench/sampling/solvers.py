"""Solvers of the probability-flow ODE dx/dsigma = (x - D(x; sigma)) / sigma.

Each solver is one function making one step from sigma down to sigma_next. What an embedded scheme
offers for free, two points with their slopes, travels in the Step for a correction to use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

Slope = Callable[[Tensor, float], Tensor]


class Node(NamedTuple):
    """A point on (or near) the trajectory and dx/dsigma there; both NCHW."""

    x: Tensor
    slope: Tensor


class Step(NamedTuple):
    """One step of a solver.

    x_next: the state at sigma_next, before any correction.
    node: where the step started.
    partner: the node that pairs with `node` for an error estimate; None where there is none yet.
    span: signed size of the step that a correction applies to: positive when it is subtracted.
    ahead: a node at sigma_next that the next step may pair with; None if this step made none.
    """

    x_next: Tensor
    node: Node
    partner: Node | None
    span: float
    ahead: Node | None


StepFunction = Callable[[Slope, Tensor, float, float, Sequence[Step]], Step]


def euler_step(slope: Slope, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Step]) -> Step:
    """Euler's method; DDIM in these coordinates (arXiv 2206.00364, section 3)."""
    h = sigma - sigma_next
    node = Node(x, slope(x, sigma))
    return Step(x - h * node.slope, node, None, h, None)


def heun_step(slope: Slope, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Step]) -> Step:
    """Heun's second-order method, with an Euler step to zero (arXiv 2206.00364, algorithm 1).

    The Euler prediction of the previous step and the present state lie at the same sigma: they are the
    embedded pair of ERK-Guid (arXiv 2603.03692).
    """
    h = sigma - sigma_next
    node = Node(x, slope(x, sigma))
    predicted = x - h * node.slope
    if sigma_next == 0:
        return Step(predicted, node, None, h, None)
    ahead = Node(predicted, slope(predicted, sigma_next))
    x_next = x - h * (0.5 * node.slope + 0.5 * ahead.slope)
    return Step(x_next, node, history[-1].ahead if history else None, h, ahead)


class Solver(NamedTuple):
    """A row of SOLVERS. order: of convergence. history: how many past steps it reads. paired: whether its
    steps carry the partner that a correction needs."""

    step: StepFunction
    order: int
    history: int
    paired: bool


SOLVERS: dict[str, Solver] = {
    "euler": Solver(euler_step, order=1, history=0, paired=False),
    "heun": Solver(heun_step, order=2, history=1, paired=True),
}
