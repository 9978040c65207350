"""GITS (arXiv 2405.11326): noise levels picked from a fine Euler trajectory by dynamic programming."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.sampling.equation import Equation
from erk_bench.sampling.sample import equation_from

METRICS = ("dev", "l1", "l2")


def gits_levels(
    net: Callable[..., Tensor],
    noise: Tensor,
    labels: Tensor | None = None,
    *,
    num_levels: int,
    teacher: int = 61,
    metric: str = "dev",
    coeff: float = 1.15,
    guide: Callable[..., Tensor] | None = None,
    **options: Any,
) -> list[float]:
    """The noise levels, falling, that `sample(sigmas=...)` takes; see `gits_cost` and `gits_choice`.

    net, noise, labels, guide: as in `sample`. num_levels: how many. teacher: levels of the Euler trajectory
    to choose from. options: those of `sample` that say which equation is solved (guidance, sigma_min, rho,
    dtype, ...).
    Raises UserError for numbers that do not fit together, and for what `sample` refuses.
    """
    equation = equation_from(**{**options, "solver": "euler", "num_steps": teacher})
    check_gits(num_levels, teacher, metric)
    cost = gits_cost(equation, net, noise, labels, guide=guide, metric=metric)
    return [equation.levels[number] for number in gits_choice(cost, num_levels, coeff)]


def check_gits(num_levels: int, teacher: int, metric: str = "dev") -> None:
    """Refuse numbers of levels that do not fit together. Raises UserError."""
    if not 2 <= num_levels <= teacher:
        raise UserError(
            f"{num_levels} noise levels cannot be picked from a teacher of {teacher}; take 2 to as many"
        )
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)


@torch.inference_mode()
def gits_cost(
    equation: Equation,
    net: Callable[..., Tensor],
    noise: Tensor,
    condition: Tensor | None = None,
    *,
    guide: Callable[..., Tensor] | None = None,
    metric: str = "dev",
) -> NDArray[np.float64]:
    """What one Euler step from level j to level i costs [T, T]: the mean over samples of noise [B, C, H, W].

    The teacher makes Euler steps through the equation's levels; x_j are its points. A step from x_j straight
    to level i ends at x_j + (s_i - s_j) f(x_j; s_j), and it costs by metric
    "l1", "l2": the distance to x_i, by the sum of absolute differences or Euclid's;
    "dev": its distance to the line from x_0 to the teacher's last point, less that of x_i (maybe below zero).
    """
    equation.refuse_native("choosing noise levels")
    problem = equation.problem(net, guide)
    slope = problem.run.slope(problem.denoiser, condition)
    levels = equation.levels
    x = noise.to(equation.dtype) * levels[0]
    points, slopes = [x], []
    for sigma, sigma_next in itertools.pairwise(levels):
        slopes.append(slope(x, sigma))
        x = x + (sigma_next - sigma) * slopes[-1]
        points.append(x)
    teacher = torch.stack(points).flatten(2)  # [T, B, D]
    start = teacher[0]
    along = teacher[-1] - start
    along = along / along.norm(dim=1, keepdim=True)

    def off_line(point: Tensor) -> Tensor:
        """Distances [..., B] of points [..., B, D] from the line."""
        from_start = point - start
        return (from_start - (from_start * along).sum(-1, keepdim=True) * along).norm(dim=-1)

    cost = np.zeros((len(levels), len(levels)))
    for j, f in enumerate(slopes[:-1]):
        spans = torch.tensor(levels[j + 2 :], dtype=x.dtype, device=x.device) - levels[j]
        jumped = teacher[j] + spans[:, None, None] * f.flatten(1)
        there = teacher[j + 2 :]
        if metric == "dev":
            found = off_line(jumped) - off_line(there)
        else:
            found = torch.linalg.vector_norm(jumped - there, ord=int(metric[1]), dim=-1)
        cost[j, j + 2 :] = found.double().mean(dim=1).cpu().numpy()
    return cost


def gits_choice(cost: NDArray[np.float64], num_levels: int, coeff: float = 1.15) -> list[int]:
    """The cheapest path from the first to the last of T levels through num_levels of them, as their numbers.

    With k steps left from level j the least cost is V_k(j) = min over i > j of cost(j, i) + coeff V_(k-1)(i):
    errors of later steps count more, by powers of coeff.
    """
    last = len(cost) - 1
    allowed = np.where(np.triu(np.ones_like(cost), 1) > 0, cost, math.inf)
    left, choices = allowed[:, last], list[NDArray[np.intp]]()
    for _ in range(num_levels - 2):
        total = allowed + coeff * left
        choices.append(total.argmin(axis=1))
        left = total.min(axis=1)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return [*path, last]


def mean_cost(costs: Sequence[tuple[NDArray[np.float64], int]]) -> NDArray[np.float64]:
    """The cost over all samples, of the means of batches and how many samples each has."""
    counts = [count for _, count in costs]
    found: NDArray[np.float64] = np.average([cost for cost, _ in costs], axis=0, weights=counts)
    return found
