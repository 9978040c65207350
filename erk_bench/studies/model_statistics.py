"""Statistics of a model for DPM-Solver-v3, measured on trajectories of a run's first seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from erk_bench.runs.device import Place, memory_guard
from erk_bench.runs.equation import equation_of
from erk_bench.runs.sample_block import draw_block
from erk_bench.sampling.dpm_solver_v3 import ModelStatistics
from erk_bench.sampling.equation import Equation, Problem, schedule_part, solver_part
from erk_bench.sampling.loop import Churn
from erk_bench.sampling.steps import Node, Slope
from erk_bench.spec import RunSpec
from erk_bench.studies.analysis.trajectories import jacobian_product

Progress = Callable[[int, int], None]  # called with the blocks done and their number


class Sums:
    """Sums over samples of the tensors of each level, float64 [K, C, H, W]."""

    def __init__(self) -> None:
        self.count = 0
        self.values: dict[str, Tensor] = {}

    def add(self, **values: Tensor) -> None:
        """Add tensors [K, B, C, H, W], B samples of each level."""
        for name, value in values.items():
            total = value.double().sum(dim=1).cpu()
            self.values[name] = self.values[name] + total if name in self.values else total
        self.count += next(iter(values.values())).shape[1]

    def mean(self, name: str) -> Tensor:
        """[K, C, H, W]."""
        return self.values[name] / self.count


def measured_statistics(
    spec: RunSpec, place: Place, images: int, num_levels: int, progress: Progress = lambda done, total: None
) -> ModelStatistics:
    """l, s and b at num_levels levels uniform in log sigma, over the run's range (arXiv 2310.13268).

    Along Heun's trajectories through the levels, of the guided denoiser, with noise(x) = (x - D) / sigma:
    l = E[diag(sigma dnoise/dx)], by one random sign vector v a sample, v (sigma dnoise/dx v); then, with
    f = sigma noise - l x and f' = df/dlambda by differences of neighbouring levels, s and b are the
    straight line of f' against f, by least squares, for each entry by itself. Two passes over the
    trajectories, so that memory does not grow with the number of images.
    """
    seeds = list(spec.seed_range)[:images]
    blocks = [seeds[start : start + spec.block_size] for start in range(0, images, spec.block_size)]
    # Compiled networks have no forward-mode derivative, and TF32 would hide small errors.
    plain = dataclasses.replace(spec, compile=False, numerics="strict")
    equation = dataclasses.replace(
        equation_of(plain), solver=solver_part("heun"), schedule=schedule_part("logsnr"),
        num_steps=num_levels, w_stiff=0.0, churn=Churn(), denoise_to_zero=False, afs=False,
    )  # fmt: skip
    sigmas = torch.tensor(equation.levels, dtype=torch.float64).reshape(-1, 1, 1, 1, 1)
    lambdas = -sigmas.log()
    diagonal, moments = Sums(), Sums()
    with memory_guard(plain), torch.inference_mode():
        for number, (nodes, slope) in enumerate(_trajectories(plain, place, equation, blocks)):
            progress(number, 2 * len(blocks))
            generator = torch.Generator().manual_seed(blocks[number][0])
            diagonal.add(l=torch.stack([_diagonal(slope, node, generator) for node in nodes]))
        l = diagonal.mean("l")  # noqa: E741
        for number, (nodes, _) in enumerate(_trajectories(plain, place, equation, blocks)):
            progress(len(blocks) + number, 2 * len(blocks))
            x = torch.stack([node.x.double().cpu() for node in nodes])
            noise = torch.stack([node.slope.double().cpu() for node in nodes])
            f = sigmas * noise - l[:, None] * x
            change = torch.gradient(f, spacing=(lambdas.flatten(),), dim=0)[0]
            moments.add(f=f, change=change, ff=f * f, fchange=f * change)
    f, change = moments.mean("f"), moments.mean("change")
    spread = (moments.mean("ff") - f * f).clamp(min=1e-12)
    s = (moments.mean("fchange") - f * change) / spread
    return ModelStatistics(np.array(equation.levels), *(each.numpy() for each in (l, s, change - s * f)))


def _trajectories(
    spec: RunSpec, place: Place, equation: Equation, blocks: Sequence[Sequence[int]]
) -> Iterator[tuple[list[Node], Slope]]:
    """The evaluations at every level, block by block, and the slope of that block."""
    for block in blocks:
        drawn = draw_block(spec, block, place)
        problem = equation.problem(drawn.net, drawn.guide)
        slope = problem.run.slope(problem.denoiser, drawn.condition)
        yield _nodes(problem, slope, drawn.noise.to(equation.dtype) * equation.levels[0]), slope


def _nodes(problem: Problem, slope: Slope, x: Tensor) -> list[Node]:
    nodes = []
    for sigma, sigma_next in problem.run.steps():
        step = problem.run.take(slope, x, sigma, sigma_next, [])
        nodes.append(step.node)
        x = step.x_next
    last = problem.run.levels[-1]
    return [*nodes, Node(x, slope(x, last), last)]


def _diagonal(slope: Slope, node: Node, generator: torch.Generator) -> Tensor:
    """One draw, of each sample, whose mean is the diagonal of sigma dnoise/dx: float64 like x."""
    signs = torch.randint(0, 2, node.x.shape, generator=generator).double() * 2 - 1
    signs = signs.to(node.x.device)
    return node.sigma * signs * jacobian_product(slope, node.x, node.sigma)(signs)
