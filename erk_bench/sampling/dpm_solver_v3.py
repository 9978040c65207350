"""DPM-Solver-v3 (arXiv 2310.13268): exponential multistep steps with statistics of the model."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.transfers import to_device
from erk_bench.sampling.steps import Node, Slope, Step

Array = NDArray[np.float64]
SLACK = 0.01  # of a level, beyond the range measured: float32 rounds some schedules' ends


@dataclass(frozen=True, eq=False)
class ModelStatistics:
    """Statistics of a model (its EMS): l, s and b float64 [K, C, H, W] or [K], at falling noise levels [K].

    f = sigma noise - l x changes along the trajectories nearly as df/dlambda = s f + b, lambda = -log sigma.
    Raises UserError for shapes that do not agree and levels that do not fall.
    """

    sigmas: Array
    l: Array  # noqa: E741 - the paper's letter
    s: Array
    b: Array

    def __post_init__(self) -> None:
        shapes = {each.shape for each in (self.l, self.s, self.b)}
        if len(shapes) != 1 or self.sigmas.ndim != 1 or self.l.shape[:1] != self.sigmas.shape:
            told = ", ".join(str(each.shape) for each in (self.sigmas, self.l, self.s, self.b))
            raise UserError(
                f"statistics have levels, l, s and b of shapes {told}; expected l, s and b of one shape, "
                "with a row for each level"
            )
        if len(self.sigmas) < 2 or (np.diff(self.sigmas) >= 0).any() or not self.sigmas[-1] > 0:
            raise UserError(
                "the noise levels of statistics must be two or more that fall and stay above zero"
            )

    @staticmethod
    def uniform(
        l: object,  # noqa: E741
        s: object,
        b: object,
        sigma_max: float = 80.0,
        sigma_min: float = 0.002,
    ) -> ModelStatistics:
        """Of arrays or tensors at levels uniform in log sigma, as the published files have them."""
        parts = [np.asarray(each, dtype=np.float64) for each in (l, s, b)]
        lambdas = np.linspace(-math.log(sigma_max), -math.log(sigma_min), len(parts[0]))
        return ModelStatistics(np.exp(-lambdas), *parts)

    @functools.cached_property
    def lambdas(self) -> Array:
        """-log sigma [K], rising."""
        return -np.log(self.sigmas)

    def check(self, levels: Sequence[float], x: Tensor) -> None:
        """Refuse noise levels outside the range measured, and states x of another shape. Raises UserError."""
        high, low = self.sigmas[0], self.sigmas[-1]
        if levels[0] > high * (1 + SLACK) or levels[-1] < low * (1 - SLACK):
            raise UserError(
                f"the statistics were measured from sigma {high:g} to {low:g}, and the noise levels go from "
                f"{levels[0]:g} to {levels[-1]:g}; measure them for these, or choose levels inside"
            )
        if self.l.ndim > 1 and self.l.shape[1:] != x.shape[1:]:
            raise UserError(
                f"the statistics are of states {list(self.l.shape[1:])}, and the model's are "
                f"{list(x.shape[1:])}; measure them for this model"
            )

    def at(self, values: Array, where: Array) -> Array:
        """A statistic [K, ...] at some lambdas [M, ...], by straight lines between the levels."""
        number = np.clip(np.searchsorted(self.lambdas, where) - 1, 0, len(self.lambdas) - 2)
        start, end = self.lambdas[number], self.lambdas[number + 1]
        share = _like(np.clip((where - start) / (end - start), 0, 1), values)
        found: Array = (1 - share) * values[number] + share * values[number + 1]
        return found


def dpm_solver_v3_step(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    levels: Sequence[float],
    statistics: ModelStatistics | None = None,
    max_order: int = 3,
    corrector: bool = True,
    pseudo: bool = False,
    corrector_pseudo: bool = False,
    lower_order_final: bool = True,
) -> Step:
    """Predict by the Taylor series of g in lambda = -log sigma; the evaluation there corrects the step.

    With f = sigma noise - l x, relative to the step's start (all integrals from there),
    L = int l, S = int s, E = exp(L + S), B = int exp(-S) b and g = exp(-S) f - B, the equation is solved by

        x_next = exp(-L) (x - int E (g + B) dlambda)

    where g is a polynomial through this and earlier evaluations. The statistics make it change little.
    statistics: None is l = 1, s = b = 0: g is minus the denoised image, and no model is measured.
    corrector: the evaluation at the step's end enters the polynomial, and the step is made again; f there is
    kept. pseudo: derivatives of g by divided differences of just the nearest evaluations, for predictor and
    (corrector_pseudo, one order more) corrector. lower_order_final: not more evaluations than steps are left.
    """
    if statistics is not None and not history:
        statistics.check(levels, x)
    node = Node(x, slope(x, sigma), sigma)
    number = levels.index(sigma_next) - 1  # of this step
    last_order = _order(number - 1, max_order, len(levels), lower_order_final) + corrector_pseudo
    before = [step.node for step in reversed(history)]
    if corrector and before and last_order > 1:
        start, points = before[0], [before[0], node, *before[1:]][:last_order]
        corrected = _moved(start, points, sigma, statistics, corrector_pseudo)
        # f, and so sigma noise - l x, stays as evaluated.
        l = _level_l(statistics, sigma, x)  # noqa: E741
        node = Node(corrected, node.slope + l / sigma * (corrected - x), sigma)
    order = min(_order(number, max_order, len(levels), lower_order_final), len(before) + 1)
    points = [node, *before][:order]
    return Step(_moved(node, points, sigma_next, statistics, pseudo), node, None, sigma - sigma_next, None)


def _order(number: int, max_order: int, num_levels: int, lower_order_final: bool) -> int:
    order = min(number + 1, max_order)
    return min(order, num_levels - 1 - number) if lower_order_final else order


class _Weights(NamedTuple):
    """A step as a linear map: constant + sum over points of of_x x + of_slope slope, all [C, H, W] or []."""

    constant: Array
    of_x: list[Array]
    of_slope: list[Array]


def _moved(
    start: Node, points: Sequence[Node], sigma_next: float, statistics: ModelStatistics | None, pseudo: bool
) -> Tensor:
    """The state at sigma_next, from the first of the points, which are evaluations around the step."""
    weights = _weights(statistics, tuple(each.sigma for each in points), sigma_next, pseudo)
    x_next = torch.zeros_like(start.x) + _on(weights.constant, start.x)
    for each, of_x, of_slope in zip(points, weights.of_x, weights.of_slope, strict=True):
        x_next = x_next + _on(of_x, start.x) * each.x + _on(of_slope, start.x) * each.slope
    return x_next


def _on(value: Array, like: Tensor) -> Tensor | float:
    """A number, or a tensor where the state is."""
    if value.ndim == 0:
        return float(value)
    return to_device(torch.from_numpy(value).to(like.dtype), like.device)


def _level_l(statistics: ModelStatistics | None, sigma: float, like: Tensor) -> Tensor | float:
    if statistics is None:
        return 1.0
    return _on(statistics.at(statistics.l, np.array([-math.log(sigma)]))[0], like)


@functools.lru_cache(maxsize=64)
def _weights(
    statistics: ModelStatistics | None, sigmas: tuple[float, ...], sigma_next: float, pseudo: bool
) -> _Weights:
    lambdas = [-math.log(sigma) for sigma in sigmas]
    integrals = functools.partial(_integrals, statistics, lambdas[0])
    step = integrals(-math.log(sigma_next), len(sigmas))
    shrink = np.exp(-step.of_l)
    constant, of_x, of_slope = -shrink * step.constant, [shrink], list[Array]()
    for number, (sigma, factors) in enumerate(zip(sigmas, _derivatives(lambdas, pseudo).T, strict=True)):
        here = integrals(lambdas[number], 0)
        weight = shrink * sum(factor * power for factor, power in zip(factors, step.powers, strict=True))
        constant = constant + weight * here.of_b
        weight = weight * np.exp(-here.of_s)
        of_x.append(weight * here.l)
        of_slope.append(-weight * sigma)
    return _Weights(constant, [of_x[0] + of_x[1], *of_x[2:]], of_slope)


def _derivatives(lambdas: Sequence[float], pseudo: bool) -> Array:
    """[n, n]: row k has the weights of g at each lambda in its derivative of order k at the first one."""
    n = len(lambdas)
    found = np.zeros((n, n))
    for k in range(n):
        near = lambdas[: k + 1] if pseudo else lambdas
        powers = np.vander(np.array(near) - lambdas[0], increasing=True)
        found[k, : len(near)] = math.factorial(k) * np.linalg.inv(powers)[k]
    return found


class _Integrals(NamedTuple):
    """From a start to an end in lambda: l, L, S and B there, int E B, and int E (lambda - start)^k / k!."""

    l: Array  # noqa: E741
    of_l: Array
    of_s: Array
    of_b: Array
    constant: Array
    powers: list[Array]


def _integrals(statistics: ModelStatistics | None, start: float, end: float, num_powers: int) -> _Integrals:
    """By the trapezoidal rule through the statistics' levels, as published; without statistics exactly."""
    h = end - start
    if statistics is None:
        powers = list[Array]()
        for k in range(num_powers):
            before = powers[-1] if powers else np.array(1.0)
            powers.append(np.array(h**k / math.factorial(k) * math.exp(h) - before))
        zero = np.array(0.0)
        return _Integrals(np.array(1.0), np.array(h), zero, zero, zero, powers)
    inside = statistics.lambdas[(statistics.lambdas - start) * (statistics.lambdas - end) < 0]
    path = np.array([start, *sorted(inside, reverse=h < 0), end])
    l, s, b = (statistics.at(each, path) for each in (statistics.l, statistics.s, statistics.b))  # noqa: E741
    running = functools.partial(_running, path)
    of_l, of_s = running(l), running(s)
    of_b = running(np.exp(-of_s) * b)
    growth = np.exp(of_l + of_s)  # E
    away = _like(path - start, l)
    powers = [running(growth * away**k / math.factorial(k))[-1] for k in range(num_powers)]
    return _Integrals(l[-1], of_l[-1], of_s[-1], of_b[-1], running(growth * of_b)[-1], powers)


def _running(path: Array, values: Array) -> Array:
    """Integrals from the start to every point of the path, by the trapezoidal rule."""
    parts = 0.5 * _like(np.diff(path), values) * (values[1:] + values[:-1])
    return np.concatenate([np.zeros_like(values[:1]), np.cumsum(parts, axis=0)])


def _like(numbers: Array, values: Array) -> Array:
    """Numbers [M] with as many dimensions as the values."""
    return numbers.reshape(-1, *[1] * (values.ndim - 1))
