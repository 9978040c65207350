"""A grid of (w_stiff, w_con) cells of ERK-Guid on the same noise, every distinct trajectory computed once.

All cells of a sample coincide with the plain solver until its gate first opens (stiffness > w_con); cells
that open together and share w_stiff go on together. So each sample has a tree of branches, and a branch
carries the cells that have been equal so far. A step evaluates the network once for each branch, before its
cells part.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.errors import UserError
from erk_bench.sampling.guidance import Denoiser, erk_guid
from erk_bench.sampling.solvers import Node, Solver, Step

ALWAYS = -1.0  # a w_con that every stiffness exceeds


class Cell(NamedTuple):
    """Strength and gate of ERK-Guid; strength 0 is the plain solver."""

    w_stiff: float
    w_con: float


class GridSampled(NamedTuple):
    """x: final states [cells, batch, C, H, W]. evaluations: of single images by the denoiser, and those that
    as many separate runs as there are cells would have made."""

    x: Tensor
    evaluations: int
    separate: int


class _Bundle(NamedTuple):
    """Branches before step `number`: states [R, C, H, W], the sample [R] and cells [R, cells] of each."""

    number: int
    x: Tensor
    sample: Tensor
    cells: Tensor
    history: list[Step]


def integrate_grid(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    labels: Tensor | None,
    solver: Solver,
    cells: Sequence[Cell],
    branch_limit: int = 256,
) -> GridSampled:
    """Integrate dx/dsigma = (x - D) / sigma from x [B, C, H, W] at sigmas[0], for every cell.

    branch_limit: branches a network call may hold; more are worked off in parts, each to its end, so that
    memory stays bounded. Results equal those of `integrate` with erk_guid(w_stiff, w_con) for each cell
    alone: bit for bit where the network's rows do not depend on the batch around them, otherwise to its
    rounding.
    Raises UserError for an empty grid, a solver without pairs or a limit below 1.
    """
    if not cells:
        raise UserError("the grid has no cells; give at least one (w_stiff, w_con)")
    if not solver.paired:
        raise UserError("the solver has no embedded pair, so there is nothing to search; use heun")
    if branch_limit < 1:
        raise UserError(f"branch_limit is {branch_limit}; it must be 1 or more")
    levels = list(itertools.pairwise(sigmas))
    result = torch.empty(len(cells), *x.shape, dtype=x.dtype, device=x.device)
    evaluations = 0
    everything = torch.ones(len(x), len(cells), dtype=torch.bool, device=x.device)
    stack = [_Bundle(0, x, torch.arange(len(x), device=x.device), everything, [])]
    while stack:
        bundle = stack.pop()
        if len(bundle.x) > branch_limit:
            half = len(bundle.x) // 2
            rows = torch.arange(len(bundle.x), device=x.device)
            stack += [_take(bundle, rows[half:]), _take(bundle, rows[:half])]
            continue
        if bundle.number == len(levels):
            for state, sample, members in zip(bundle.x, bundle.sample, bundle.cells, strict=True):
                result[members, sample] = state
            continue
        sigma, sigma_next = levels[bundle.number]
        own_labels = None if labels is None else labels[bundle.sample]

        def slope(x: Tensor, sigma: float, labels: Tensor | None = own_labels) -> Tensor:
            nonlocal evaluations
            evaluations += len(x)
            return (x - denoiser(x, sigma, labels)) / sigma

        step = solver.step(slope, bundle.x, sigma, sigma_next, bundle.history)
        stack.append(_parted(bundle, step, cells, solver.history))
    return GridSampled(result, evaluations, _calls_of_one(solver, sigmas) * len(cells) * len(x))


def _parted(bundle: _Bundle, step: Step, cells: Sequence[Cell], history: int) -> _Bundle:
    """The branches after a step: of each, its closed cells, and by w_stiff those whose gate is open."""
    stiffness = erk_guid(0.0, 0.0)(step).stiffness
    strengths = torch.tensor([cell.w_stiff for cell in cells], dtype=torch.float64, device=step.x_next.device)
    open_cells = torch.zeros_like(bundle.cells)
    if stiffness is not None:
        # In the estimate's own dtype, as erk_guid compares.
        limits = torch.tensor([cell.w_con for cell in cells], dtype=stiffness.dtype, device=stiffness.device)
        open_cells = bundle.cells & (strengths != 0) & (stiffness[:, None] > limits)
    closed = bundle.cells & ~open_cells
    keep = closed.any(dim=1).nonzero()[:, 0]
    states, rows, members = [step.x_next[keep]], [keep], [closed[keep]]
    for strength in sorted({cell.w_stiff for cell in cells if cell.w_stiff}):
        mine = open_cells & (strengths == strength)
        hit = mine.any(dim=1).nonzero()[:, 0]
        if len(hit):
            states.append(erk_guid(strength, ALWAYS)(_rows(step, hit)).x_next)
            rows.append(hit)
            members.append(mine[hit])
    origin = torch.cat(rows)
    past = [_rows(old, origin) for old in [*bundle.history, step][-history:]] if history else []
    return _Bundle(bundle.number + 1, torch.cat(states), bundle.sample[origin], torch.cat(members), past)


def _take(bundle: _Bundle, rows: Tensor) -> _Bundle:
    past = [_rows(step, rows) for step in bundle.history]
    return _Bundle(bundle.number, bundle.x[rows], bundle.sample[rows], bundle.cells[rows], past)


def _rows(step: Step, rows: Tensor) -> Step:
    """The same step for some of its rows."""

    def of(node: Node | None) -> Node | None:
        return None if node is None else Node(node.x[rows], node.slope[rows])

    return Step(
        step.x_next[rows], Node(step.node.x[rows], step.node.slope[rows]), of(step.partner), step.span,
        of(step.ahead),
    )  # fmt: skip


def _calls_of_one(solver: Solver, sigmas: Sequence[float]) -> int:
    """Evaluations of one trajectory, counted on a one-pixel stand-in."""
    calls = 0

    def slope(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return x * 0.5

    x = torch.ones(1, 1, 1, 1)
    history: list[Step] = []
    for sigma, sigma_next in itertools.pairwise(sigmas):
        step = solver.step(slope, x, sigma, sigma_next, history)
        x, history = step.x_next, [*history, step][-solver.history :] if solver.history else []
    return calls
