"""STORK-2 (arXiv 2505.24210): stabilised Runge-Kutta stages on extrapolated evaluations."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from erk_bench.sampling.deis import lagrange
from erk_bench.sampling.multistep import lagrange_integrals
from erk_bench.sampling.schedules import DDPM_BETAS, vp_beta, vp_betas, vp_sigma, vp_time
from erk_bench.sampling.steps import Node, Slope, Step

Array = NDArray[np.float64]


def stork_step(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    levels: Sequence[float],
    stages: int = 50,
    form: str = "vp",
    degree: int = 2,
    published: bool = False,
) -> Step:
    """One evaluation, then `stages` stages of a stabilised Runge-Kutta method, which need none.

    form "vp": in VP time t and y = x / sqrt(1 + sigma^2) the equation is dy/dt = beta/2 (noise / share - y)
    with share = sigma / sqrt(1 + sigma^2); its linear part is stiff, and the stages keep it stable over long
    steps. The noise within the step is the polynomial through this and the last `degree` evaluations, as many
    as there are. form "flow": t = sigma / (1 + sigma), y = x / (1 + sigma), dy/dt is the velocity, which is
    extrapolated instead; the step to zero is such a step, too (with "vp" it is Euler's).
    published: as the authors' programs compute it, slips included (docs/method.md). Their "vp" has DDPM's
    process and a degree of its own, and evaluates twice in its first step. Their "flow" begins with `degree`
    + 1 plain steps and never uses its second evaluation again: the second level should halve the first step.
    """
    node = Node(x, slope(x, sigma), sigma)
    if form == "vp" and sigma_next == 0:
        return Step(x - sigma * node.slope, node, None, sigma, None)
    nodes = [node, *(step.node for step in reversed(history))]
    if not published:
        nodes = nodes[: degree + 1]
    elif form == "flow":
        nodes = [node, *(each for each in nodes[1:] if each.sigma != levels[1])][: degree + 1]
    elif not history:
        nodes.append(_euler_in_vp_time(slope, node, sigma_next))
    weigh = _startup_weights if published and form == "flow" and len(history) <= degree else _weights
    known = tuple(each.sigma for each in nodes)
    scale, *weights = weigh(known, sigma_next, stages, form, published)
    x_next = scale * x
    for weight, each in zip(weights, nodes, strict=True):
        value = each.slope if form == "vp" else (1 + each.sigma) * each.slope - each.x
        x_next = x_next + weight * value
    return Step(x_next, node, None, sigma - sigma_next, None)


def _euler_in_vp_time(slope: Slope, node: Node, sigma_next: float) -> Node:
    """The evaluation after a step of Euler's method in DDPM's VP time."""
    frame = _frame("vp", published=True)
    t, (state, noise) = frame.time(node.sigma), np.eye(2)
    y = state / frame.scale(node.sigma)
    y = y + (frame.time(sigma_next) - t) * frame.rate(y, noise, t)
    x_weight, noise_weight = map(float, y * frame.scale(sigma_next))
    x = x_weight * node.x + noise_weight * node.slope
    return Node(x, slope(x, sigma_next), sigma_next)


class _Frame(NamedTuple):
    """Coordinates: time t of a level, scale (x = scale y), dy/dt of state y, extrapolated value and t."""

    time: Callable[[float], float]
    scale: Callable[[float], float]
    rate: Callable[[Array, Array, float], Array]


def _vp(betas: tuple[float, float]) -> _Frame:
    def rate(y: Array, noise: Array, t: float) -> Array:
        level = vp_sigma(t, betas)
        return 0.5 * vp_beta(t, betas) * (noise * math.hypot(1, level) / level - y)

    return _Frame(functools.partial(vp_time, betas=betas), functools.partial(math.hypot, 1), rate)


def _frame(form: str, published: bool) -> _Frame:
    if form == "vp":
        return _vp(DDPM_BETAS if published else vp_betas())
    return _Frame(lambda sigma: sigma / (1 + sigma), lambda sigma: 1 + sigma, lambda y, velocity, t: velocity)


@functools.cache
def _weights(
    sigmas: tuple[float, ...], sigma_next: float, stages: int, form: str, published: bool
) -> tuple[float, ...]:
    """The step is linear in the state and the evaluations: the stages, on the coefficients of these.

    Runge-Kutta-Gegenbauer method of second order (Skaras, Saxton, Meyer, Aslam, J. Comput. Phys. 425, 2021):
    stability polynomials a_j + b_j C_j(1 + w z) with Gegenbauer's C_j of index 3/2.
    """
    frame = _frame(form, published)
    times = [frame.time(sigma) for sigma in sigmas]
    start, span = times[0], frame.time(sigma_next) - times[0]
    reach = (stages - 1) * (stages + 4)
    w = 6 / reach

    def rate(y: Array, t: float) -> Array:
        values = [lagrange(t, times, index) for index in range(len(times))]
        if published and len(times) > 2:
            values = _published_differences(t, times, form).tolist()
        return frame.rate(y, np.array([0.0, *values]), t)

    def b(j: int) -> float:
        return 1 / (1 + 2 * j) if j < 2 else 4 * (j - 1) * (j + 4) / (3 * j * (j + 1) * (j + 2) * (j + 3))

    def time(j: int) -> float:
        """Of stage j. The programs have those of the Legendre method, whose stages have other weights."""
        if published:
            reached = 4 / 3 if j == 1 else (j - 1) * (j + 2)
            return start + reached / ((stages - 1) * (stages + 2)) * span
        return start + (w if j == 1 else (j - 1) * (j + 4) / reach) * span

    at_start = np.array([1 / frame.scale(sigmas[0]), *[0.0] * len(times)])
    first = rate(at_start, start)
    older, newer = at_start, at_start + w * span * first
    for j in range(2, stages + 1):
        mu = (2 * j + 1) / j * b(j) / b(j - 1)
        nu = -(j + 1) / j * b(j) / b(j - 2)
        a = 1 - j * (j + 1) / 2 * b(j - 1)
        stage = mu * newer + nu * older + (1 - mu - nu) * at_start
        stage += mu * w * span * (rate(newer, time(j - 1)) - a * first)
        older, newer = newer, stage
    return tuple(float(weight) for weight in newer * frame.scale(sigma_next))


def _startup_weights(
    sigmas: tuple[float, ...], sigma_next: float, stages: int, form: str, published: bool
) -> tuple[float, ...]:
    """Of a step of Euler's method, and after that of Adams-Bashforth's on two evaluations."""
    frame = _frame(form, published)
    times = [frame.time(sigma) for sigma in sigmas]
    integrals = lagrange_integrals(times[:2], times[0], frame.time(sigma_next))
    unused = [0.0] * len(times[2:])
    end = frame.scale(sigma_next)
    return (end / frame.scale(sigmas[0]), *(end * each for each in integrals), *unused)


def _published_differences(t: float, times: Sequence[float], form: str) -> Array:
    """Weights of the last evaluations, the latest first, in what the programs extrapolate to time t.

    A Taylor series to the third power, whose terms have differences for derivatives; not all of these are
    divided differences of unequal steps, and "vp" lacks the factors 1/2 and 1/6.
    """
    h = [after - before for before, after in itertools.pairwise(times)]
    e = np.eye(len(times))  # each evaluation by itself

    def second() -> Array:
        return 2 / (h[0] * h[1] * (h[0] + h[1])) * (h[1] * e[0] - (h[0] + h[1]) * e[1] + h[0] * e[2])

    if form == "flow" and len(times) == 3:
        terms = [(-3 * e[0] + 4 * e[1] - e[2]) / (2 * h[0]), second() / 2]
    elif form == "flow":
        h1, h2, h3 = h
        d1, d2, d3 = (e[1:4] - e[0]) / (h1 * h2 * h3)
        terms = [
            h2 * h3 * d1 - h1 * h3 * d2 + h1 * h2 * d3,
            (h2 + h3) * d1 - (h1 + h3) * d2 + (h1 + h2) * d3,
            (h2 - h3) * d1 + (h3 - h1) * d2 + (h1 - h2) * d3,
        ]
    elif len(times) < 5:
        terms = [(e[1] - e[0]) / h[0], second()]
    else:
        h1, h2, h3, h4 = h
        all3, all4 = h1 + h2 + h3, h1 + h2 + h3 + h4
        two = h2 * h3 * e[0] - all3 * h3 * e[1] + h1 * h3 * e[2] + h1 * h2 * e[3]
        three = h2 * h3 * h4 * e[0] - all4 * h3 * h4 * e[1]
        three += h1 * h3 * h4 * e[2] - h1 * h2 * h4 * e[3] + h1 * h2 * h3 * e[4]
        terms = [
            (e[1] - e[0]) / h1,
            2 * two / (h1 * h2 * h3 * all3),
            2 * three / (h1 * h2 * h3 * h4 * all4),
        ]
    found: Array = e[0] + sum((t - times[0]) ** power * term for power, term in enumerate(terms, start=1))
    return found
