"""RX: Richardson extrapolation over blocks of steps (RX-DPM, ICLR 2025)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor

from erk_bench.sampling.steps import Node, Slope, Step

LONGEST = 8  # steps of a block


def rx_step(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    levels: Sequence[float],
    base: str = "euler",
    block: int = 2,
    skip_last: bool = True,
    published: bool = False,
) -> Step:
    """A step of the base solver; at the end of a block of K = `block` steps, Richardson extrapolation.

    The block's steps h_1 ... h_K lead to x_fine. One step of the same solver over the whole block,
    H = h_1 + ... + h_K, leads to x_coarse. With p the order of the solver, their errors are nearly
    C (h_1^(p+1) + ... + h_K^(p+1)) and C H^(p+1) with the same C, so one order is gained by

        x = (x_fine - a x_coarse) / (1 - a),    a = (h_1/H)^(p+1) + ... + (h_K/H)^(p+1)

    Euler's coarse step needs only the slope at the block's start: no evaluation is added. Heun's adds one a
    block. Blocks of one step are the base solver. The step to zero belongs to the last block; it is Euler's,
    so a block of Heun steps that ends there is left as it is.
    skip_last: steps left over by blocks of K are plain; false gives them to the last block, which then has
    more than K. published: a of that longer block is summed over its first K steps only, as the published
    program does.
    """
    order = {"euler": 1, "heun": 2}[base]
    node = Node(x, slope(x, sigma), sigma)
    x_next = _advanced(slope, node, sigma_next, order)
    last = levels.index(sigma_next)
    ends = list(range(block, len(levels), block))  # numbers of the levels at which blocks end
    if ends and not skip_last:
        ends[-1] = len(levels) - 1
    if block > 1 and last in ends and (order == 1 or sigma_next > 0):
        first = ends.index(last) * block
        nodes = [*(step.node for step in history[len(history) - (last - first - 1) :]), node]
        whole = nodes[0].sigma - sigma_next
        parts = [a - b for a, b in itertools.pairwise([*(each.sigma for each in nodes), sigma_next])]
        a = sum((h / whole) ** (order + 1) for h in (parts[:block] if published else parts))
        x_next = (x_next - a * _advanced(slope, nodes[0], sigma_next, order)) / (1 - a)
    return Step(x_next, node, None, sigma - sigma_next, None)


def _advanced(slope: Slope, node: Node, sigma_next: float, order: int) -> Tensor:
    """One step of Euler (order 1) or Heun (order 2); to zero, where there is no slope, always Euler's."""
    h = node.sigma - sigma_next
    x_next = node.x - h * node.slope
    if order == 1 or sigma_next == 0:
        return x_next
    return node.x - h * (0.5 * node.slope + 0.5 * slope(x_next, sigma_next))
