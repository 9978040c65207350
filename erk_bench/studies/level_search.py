"""Noise levels for a model and its guidance, chosen on trajectories of a run's first seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erk_bench.networks.denoiser import Denoiser
from erk_bench.runs.device import Place, memory_guard
from erk_bench.runs.equation import equation_of
from erk_bench.runs.numerics import arithmetic
from erk_bench.runs.sample_block import Drawn, draw_block
from erk_bench.sampling.equation import Equation, solver_part
from erk_bench.sampling.gits import gits_choice, gits_cost, mean_cost
from erk_bench.sampling.loop import Churn
from erk_bench.sampling.sdm_levels import Tolerance, resampled, sdm_path
from erk_bench.spec import RunSpec

Progress = Callable[[int, int], None]  # called with the blocks done and their number


class Gits(NamedTuple):
    """GITS: how an Euler step is judged, and how much more each later step counts (sampling/gits.py)."""

    metric: str = "dev"
    coeff: float = 1.15


class Sdm(NamedTuple):
    """SDM: the error a step may have, and how the path is resampled (sampling/sdm_levels.py)."""

    tolerance: Tolerance = Tolerance()
    q: float = 0.25
    snap: bool = True


def found_levels(
    spec: RunSpec,
    place: Place,
    images: int,
    teacher: int,
    method: Gits | Sdm,
    progress: Progress = lambda done, total: None,
) -> list[float]:
    """schedule.num_steps noise levels of the run, falling, all above zero.

    images: of the run's first seeds. teacher: levels of its schedule to choose from. A network call holds
    block_size images. Raises UserError where a method finds none.
    """
    seeds = list(spec.seed_range)[:images]
    blocks = [seeds[start : start + spec.block_size] for start in range(0, images, spec.block_size)]
    equation = dataclasses.replace(
        equation_of(spec), num_steps=teacher, w_stiff=0.0, churn=Churn(), denoise_to_zero=False, afs=False
    )
    with memory_guard(spec), arithmetic(spec):
        if isinstance(method, Sdm):
            return _sdm(spec, equation, [draw_block(spec, block, place) for block in blocks], method)
        euler = dataclasses.replace(equation, solver=solver_part("euler"))
        costs = []
        for number, block in enumerate(blocks):
            progress(number, len(blocks))
            drawn = draw_block(spec, block, place)
            cost = gits_cost(
                euler, drawn.net, drawn.noise, drawn.condition, guide=drawn.guide, metric=method.metric
            )
            costs.append((cost, len(block)))
    chosen = gits_choice(mean_cost(costs), spec.schedule.num_steps, method.coeff)
    return [equation.levels[number] for number in chosen]


def _sdm(spec: RunSpec, equation: Equation, drawn: list[Drawn], method: Sdm) -> list[float]:
    first = drawn[0]
    condition = None
    if first.condition is not None:
        condition = torch.cat([each.condition for each in drawn if each.condition is not None])
    net = _InParts(first.net, spec.block_size)
    guide = first.guide and (net if first.guide is first.net else _InParts(first.guide, spec.block_size))
    path = sdm_path(
        equation, net, torch.cat([each.noise for each in drawn]), condition, guide=guide,
        tolerance=method.tolerance, snap=method.snap,
    )  # fmt: skip
    return resampled(path.levels, path.bounds, spec.schedule.num_steps, method.q)


class _InParts:
    """The same denoiser, with at most `size` images a call."""

    def __init__(self, net: Denoiser, size: int) -> None:
        self._net = net
        self._size = size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._net, name)  # its number of classes, its guided channels

    def __call__(self, x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
        parts = x.split(self._size)
        conditions = [None] * len(parts) if condition is None else condition.split(self._size)
        return torch.cat([self._net(a, sigma, c) for a, c in zip(parts, conditions, strict=True)])
