"""SDM's noise levels (arXiv 2602.12624): steps as long as a bound on their error allows, then resampled."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.sampling.equation import Equation
from erk_bench.sampling.sample import equation_from
from erk_bench.sampling.steps import Slope

RHO = 7.0  # levels are interpolated in sigma^(1 / RHO)
SAFETY = 0.95  # of a step's length
TRIES = 2  # a trial step is doubled, and halved, at most so often


class Tolerance(NamedTuple):
    """The error allowed for a step that starts at sigma: low + (high - low) (sigma / sigma_max)^power."""

    low: float = 0.02
    high: float = 0.2
    power: float = 1.0


class SdmPath(NamedTuple):
    """levels: falling, those above zero. bounds: of the error of the step from each level to the next."""

    levels: list[float]
    bounds: list[float]
    end: Tensor


def sdm_levels(
    net: Callable[..., Tensor],
    noise: Tensor,
    labels: Tensor | None = None,
    *,
    num_levels: int,
    grid: int = 18,
    eta_min: float = 0.02,
    eta_max: float = 0.2,
    eta_power: float = 1.0,
    q: float = 0.25,
    snap: bool = True,
    solver: str = "euler",
    guide: Callable[..., Tensor] | None = None,
    **options: Any,
) -> list[float]:
    """The noise levels, falling, that `sample(sigmas=...)` takes; see `sdm_path` and `resampled`.

    net, noise, labels, guide: as in `sample`. num_levels: how many. grid: levels that trial steps go to.
    options: those of `sample` that say which equation is solved. Raises UserError for what `sample` refuses.
    """
    equation = equation_from(**{**options, "solver": solver, "num_steps": grid})
    tolerance = Tolerance(eta_min, eta_max, eta_power)
    path = sdm_path(equation, net, noise, labels, guide=guide, tolerance=tolerance, snap=snap)
    return resampled(path.levels, path.bounds, num_levels, q)


@torch.inference_mode()
def sdm_path(
    equation: Equation,
    net: Callable[..., Tensor],
    noise: Tensor,
    condition: Tensor | None = None,
    *,
    guide: Callable[..., Tensor] | None = None,
    tolerance: Tolerance = Tolerance(),  # noqa: B008 - a frozen value
    snap: bool = True,
) -> SdmPath:
    """One list of levels for all samples, found on the way down by Euler's or Heun's method (the solver).

    A step from s to s' has the error bound eta = (s - s')^2 S / 2, where S is the mean over the samples of
    |f(Euler's point at s') - f(s)| / (s - s'). From each level a trial step goes to the next of the
    equation's levels, its grid. While eta stays below the tolerance at s, it goes to the second and the
    fourth; else it is halved, at most twice. S of the last good trial (or of the last one) then gives the
    step: 0.95 sqrt(2 tolerance / S), not shorter than that trial. snap: down to a level of the grid.
    """
    equation.refuse_native("choosing noise levels")
    problem = equation.problem(net, guide)
    slope = problem.run.slope(problem.denoiser, condition)
    grid, lowest = equation.levels, equation.levels[-1]
    sigma = grid[0]
    x = noise.to(equation.dtype) * sigma
    start, levels = x, [sigma]
    while sigma > lowest:
        f = slope(x, sigma)
        allowed = tolerance.low + (tolerance.high - tolerance.low) * (sigma / grid[0]) ** tolerance.power
        here = max(number for number, level in enumerate(grid[:-1]) if level >= sigma)
        h, bend = _trial(functools.partial(_bend, slope, x, f, sigma), sigma, grid, here, allowed)
        step = min(sigma - lowest, max(h, SAFETY * math.sqrt(2 * allowed / max(bend, 1e-30))))
        target = max(sigma - step, lowest)
        if snap:
            target = max((level for level in grid if level <= target), default=lowest)
        x, sigma = _moved(slope, x, f, sigma, target, equation.solver.name), target
        levels.append(sigma)
    return SdmPath(levels, _bounds(slope, start, levels, equation.solver.name), x)


def _trial(
    bend: Callable[[float], float], sigma: float, grid: Sequence[float], here: int, allowed: float
) -> tuple[float, float]:
    """Length and S of the last good trial step, or of the last one."""
    doubled = halved = 0
    h = sigma - grid[here + 1]
    best = None
    while True:
        tried = h, bend(sigma - h)
        good = 0.5 * h * h * tried[1] <= allowed
        if good:
            best = tried
        if good and doubled < TRIES and not halved and here + 2 ** (doubled + 1) < len(grid):
            doubled += 1
            h = sigma - grid[here + 2**doubled]
        elif not good and halved < TRIES:
            halved += 1
            h = h / 2
        else:
            return best or tried


def _bend(slope: Slope, x: Tensor, f: Tensor, sigma: float, target: float) -> float:
    """S of the Euler step from x, with slope f there, to the level `target`."""
    change = slope(x + (target - sigma) * f, target) - f
    return float(change.flatten(1).norm(dim=1).mean()) / (sigma - target)


def _moved(slope: Slope, x: Tensor, f: Tensor, sigma: float, target: float, solver: str) -> Tensor:
    """One step of Euler's or Heun's method."""
    euler = x + (target - sigma) * f
    if solver == "euler":
        return euler
    return x + (target - sigma) * (0.5 * f + 0.5 * slope(euler, target))


def _bounds(slope: Slope, x: Tensor, levels: Sequence[float], solver: str) -> list[float]:
    """The error bound of every step between the levels."""
    found = []
    for sigma, target in itertools.pairwise(levels):
        f = slope(x, sigma)
        found.append(0.5 * (sigma - target) ** 2 * _bend(slope, x, f, sigma, target))
        x = _moved(slope, x, f, sigma, target, solver)
    return found


def resampled(
    levels: Sequence[float], bounds: Sequence[float], num_levels: int, q: float = 0.25, power: float = 0.5
) -> list[float]:
    """num_levels levels between the first and the last, equal parts of the length sum bound^power w.

    w = (sigma_max / sigma)^q at the end of each step; the larger q, the more levels are at low noise. Between
    levels, sigma^(1/7) is a monotone cubic function of the length.
    Raises UserError where the bounds are not all above zero and finite.
    """
    if num_levels < 2:
        raise UserError(f"num_levels is {num_levels}; it must be 2 or more")
    lengths = np.asarray(bounds, float) ** power * (levels[0] / np.asarray(levels[1:])) ** q
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise UserError(
            "the slopes do not change along the trajectories, or are not finite: no level to choose"
        )
    reached = np.concatenate([[0.0], np.cumsum(lengths)])
    time = PchipInterpolator(reached, np.asarray(levels) ** (1 / RHO))
    found = time(np.linspace(0, reached[-1], num_levels)) ** RHO
    return [levels[0], *map(float, found[1:-1]), levels[-1]]
