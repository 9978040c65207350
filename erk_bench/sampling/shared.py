"""Samples of many (w_stiff, w_con) cells of ERK-Guid from the same noise; equal trajectories are shared.

ERK-Guid changes a step only where the stiffness exceeds w_con. Until then a sample's trajectory is that of
the plain solver, whatever the cell. Cells whose trajectories are still equal form one branch, and a step
evaluates the network once for each branch. A branch is split where a step differs between its cells.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.transfers import rows_where, to_device
from erk_bench.sampling.corrections import W_CON, Correct, erk_guid
from erk_bench.sampling.equation import Equation
from erk_bench.sampling.guided import Denoiser, begin_step
from erk_bench.sampling.loop import Run
from erk_bench.sampling.sample import equation_from
from erk_bench.sampling.steps import Step

ALWAYS = -1.0  # a w_con that every stiffness exceeds


class Strength(NamedTuple):
    """Strength and gate of ERK-Guid; strength 0 is the plain solver."""

    w_stiff: float
    w_con: float = W_CON


class GridSampled(NamedTuple):
    """Final states of every cell of a grid, each distinct one once.

    states: [R, C, H, W]. rows: int64 [cells, batch], rows of `states`. nfe, nfe_guide: calls of the main and
    the guiding network that a separate run of one cell makes. evaluations: of single images by both
    networks, counted.
    """

    states: Tensor
    rows: Tensor
    nfe: float
    nfe_guide: float
    evaluations: int

    @property
    def x(self) -> Tensor:
        """The states of each cell [cells, batch, C, H, W]."""
        return self.states[self.rows]

    @property
    def separate(self) -> int:
        """Evaluations that as many separate runs as there are cells make."""
        return round((self.nfe + self.nfe_guide) * self.rows.numel())


class _Bundle(NamedTuple):
    """Branches before step `number`: states [R, C, H, W], the sample [R] and cells [R, cells] of each."""

    number: int
    x: Tensor
    sample: Tensor
    cells: Tensor
    history: list[Step]


class _Settings(NamedTuple):
    """w_stiff and w_con of each cell, float64 [cells], where the states are."""

    w_stiff: Tensor
    w_con: Tensor


def sample_grid(
    net: Callable[..., Tensor],
    noise: Tensor,
    labels: Tensor | None = None,
    *,
    cells: Sequence[tuple[float, float]],
    branch_limit: int = 256,
    guide: Callable[..., Tensor] | None = None,
    **options: Any,
) -> GridSampled:
    """`sample` for every (w_stiff, w_con) of `cells` on the same noise, for a part of the evaluations.

    cells: w_stiff 0 is the plain solver. branch_limit: images a network call may hold. guide and the other
    options are those of `sample` that say which equation is solved (solver, num_steps, schedule, ...).
    Results equal those of separate calls of `sample`, to the rounding with which the network's rows depend on
    the batch around them.
    Raises UserError for an empty grid, a solver without pairs, or what `sample` refuses.
    """
    for name in ("w_stiff", "w_con"):
        if name in options:
            raise UserError(f"{name} belongs to the cells of a grid; give cells=[(w_stiff, w_con), ...]")
    return solve_grid(
        equation_from(**options), net, noise, labels, cells=cells, guide=guide, branch_limit=branch_limit
    )


@torch.inference_mode()
def solve_grid(
    equation: Equation,
    net: Callable[..., Tensor],
    noise: Tensor,
    condition: Tensor | None = None,
    *,
    cells: Sequence[tuple[float, float]],
    guide: Callable[..., Tensor] | None = None,
    branch_limit: int = 256,
) -> GridSampled:
    """Solve an equation for every (w_stiff, w_con) of `cells` from the same unit noise [B, C, H, W]."""
    if not cells:
        raise UserError("the grid has no cells; give at least one (w_stiff, w_con)")
    if any(w_stiff for w_stiff, _ in cells):
        equation.check_corrected(equation.correction)
    if not equation.shares:
        raise UserError(
            f"cells of a grid share trajectories, and those of correction '{equation.correction.name}' with "
            f"guidance '{equation.guidance.name}' cannot be shared: a memory such as momentum, churn and "
            "corrections without a gate belong to one trajectory; sample each cell by itself"
        )
    if branch_limit < 1:
        raise UserError(f"branch_limit is {branch_limit}; it must be 1 or more")
    problem = equation.problem(net, guide)
    states, index = integrate_grid(
        problem.denoiser, noise.to(equation.dtype) * problem.start, problem.run, condition,
        [Strength(*cell) for cell in cells], branch_limit,
        functools.partial(equation.correction.row.make, **equation.correction.options),
    )  # fmt: skip
    counted = [network.num_images for network in (problem.main, problem.guiding) if network]
    alone = equation.count_evaluations(guided=guide is not None)
    return GridSampled(states, index, *alone, sum(counted))


def integrate_grid(
    denoiser: Denoiser,
    x: Tensor,
    run: Run,
    condition: Tensor | None,
    cells: Sequence[Strength],
    branch_limit: int,
    correction: Callable[[float, float], Correct] = erk_guid,
) -> tuple[Tensor, Tensor]:
    """Integrate dx/dsigma = (x - D) / sigma from x [B, C, H, W] at the first level, for every cell.

    branch_limit: branches a network call may hold; more are worked off in parts, each to its end, so that
    memory stays bounded. Returns the distinct final states [R, C, H, W] and their index [cells, B]. Each
    equals that of `integrate` with correction(w_stiff, w_con) for its cell alone: bit for bit where the
    network's rows do not depend on the batch around them.
    """
    steps = run.steps()
    index = torch.empty(len(cells), len(x), dtype=torch.int64, device=x.device)
    states: list[Tensor] = []
    settings = _Settings(*to_device(torch.tensor(cells, dtype=torch.float64).T.contiguous(), x.device))
    everything = torch.ones(len(x), len(cells), dtype=torch.bool, device=x.device)
    stack = [_Bundle(0, x, torch.arange(len(x), device=x.device), everything, [])]
    while stack:
        bundle = stack.pop()
        if len(bundle.x) > branch_limit:
            half = len(bundle.x) // 2
            rows = torch.arange(len(bundle.x), device=x.device)
            stack += [_take(bundle, rows[half:]), _take(bundle, rows[:half])]
            continue
        if bundle.number == len(steps):
            branch, cell = bundle.cells.nonzero(as_tuple=True)
            index[cell, bundle.sample[branch]] = branch + sum(map(len, states))
            states.append(bundle.x)
            continue
        slope = run.slope(denoiser, None if condition is None else condition[bundle.sample])
        begin_step(denoiser, bundle.number)
        step = run.take(slope, bundle.x, *steps[bundle.number], bundle.history)
        stack.append(_parted(bundle, step, cells, settings, run, correction))
    return torch.cat(states), index


def _parted(
    bundle: _Bundle,
    step: Step,
    cells: Sequence[Strength],
    settings: _Settings,
    run: Run,
    correction: Callable[[float, float], Correct],
) -> _Bundle:
    """The branches after a step: of each, its closed cells, and by w_stiff those whose gate is open."""
    stiffness = correction(0.0, 0.0)(step).stiffness
    open_cells = torch.zeros_like(bundle.cells)
    if stiffness is not None:
        # In the estimate's own dtype, as erk_guid compares.
        above = stiffness[:, None] > settings.w_con.to(stiffness.dtype)
        open_cells = bundle.cells & (settings.w_stiff != 0) & above
    strengths = sorted({cell.w_stiff for cell in cells if cell.w_stiff})
    groups = [bundle.cells & ~open_cells]  # closed gates, then one group a strength
    groups += [open_cells & (settings.w_stiff == strength) for strength in strengths]
    found = rows_where(*(group.any(dim=1) for group in groups))
    keep = found[0]
    states, rows, members = [step.x_next[keep]], [keep], [groups[0][keep]]
    for strength, mine, hit in zip(strengths, groups[1:], found[1:], strict=True):
        if len(hit):
            states.append(correction(strength, ALWAYS)(step.rows(hit)).x_next)
            rows.append(hit)
            members.append(mine[hit])
    origin = torch.cat(rows)
    past = [old.rows(origin) for old in run.kept(bundle.history, step)]
    return _Bundle(bundle.number + 1, torch.cat(states), bundle.sample[origin], torch.cat(members), past)


def _take(bundle: _Bundle, rows: Tensor) -> _Bundle:
    past = [step.rows(rows) for step in bundle.history]
    return _Bundle(bundle.number, bundle.x[rows], bundle.sample[rows], bundle.cells[rows], past)
