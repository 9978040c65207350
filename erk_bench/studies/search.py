"""Search for (w_stiff, w_con) within a budget: proposals by Optuna, successive halving on images.

All proposals are measured on few images; the best of them are measured on more and more, until a few have
been measured on all. Measurements at different image numbers are never compared, since Frechet distances
depend on the number.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import optuna

from erk_bench.base.errors import UserError
from erk_bench.sampling.shared import Strength

FINALISTS = 2  # at least so many cells are measured on all images: the winner needs a runner-up
STEP = 0.05  # of the proposals: finer ones could not be told apart


class Space(NamedTuple):
    """Lowest and highest values of w_stiff and w_con."""

    w_stiff: tuple[float, float]
    w_con: tuple[float, float]


class MetricAtCost(NamedTuple):
    """A cell's metric on some images, and the network evaluations that this cell has taken so far."""

    value: float
    evaluations: float


# The cells on the first `num_images` images.
Measure = Callable[[Sequence[Strength], int], Mapping[Strength, MetricAtCost]]


class Plan(NamedTuple):
    """How the budget is spent. rungs: image numbers, ascending. sampled: the images that each takes, in whole
    blocks. factor: of the cells that a rung passes on. nfe: evaluations of one image. budget: in evaluations
    of single images, the plain solver's included. batch: proposals at a time."""

    rungs: tuple[int, ...]
    sampled: tuple[int, ...]
    factor: int
    nfe: float
    budget: int
    batch: int

    @property
    def plain(self) -> float:
        """Evaluations of the plain solver."""
        return self.sampled[-1] * self.nfe

    def promotions(self, num_cells: int) -> list[int]:
        """How many of the cells reach each rung after the first."""
        counts = []
        for _ in self.rungs[1:]:
            num_cells = max(math.ceil(num_cells / self.factor), FINALISTS)
            counts.append(num_cells)
        return counts

    @property
    def added(self) -> list[int]:
        """Images that each rung after the first samples anew."""
        return [after - before for before, after in itertools.pairwise(self.sampled)]

    def reserve(self, num_cells: int, first: int = 0) -> float:
        """Evaluations that promoting so many cells takes without sharing; first: rungs left out."""
        added, counts = self.added[first:], self.promotions(num_cells)[first:]
        images = sum(count * images for count, images in zip(counts, added, strict=True))
        return images * self.nfe

    @property
    def least(self) -> float:
        """The smallest budget that finds anything: one batch."""
        return self.plain + self.batch * self.sampled[0] * self.nfe + self.reserve(self.batch)

    def check(self) -> None:
        """Raise UserError for a budget that is not enough for one batch."""
        if self.budget < self.least:
            raise UserError(
                f"budget is {self.budget:,} network evaluations; the least for {self.batch} proposals on "
                f"{', '.join(map(str, self.rungs))} images is {self.least:,}"
            )


def make_rungs(
    seeds: range, first: int, factor: int, block_size: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Image numbers from `first` to all of the seeds, each `factor` times the one before or a little more, so
    that they end with a block; and the images that whole blocks of them have."""
    start = seeds[0] // block_size * block_size  # of the first block

    def to_block_end(count: int) -> int:
        return math.ceil((seeds[0] + count - start) / block_size) * block_size - (seeds[0] - start)

    rungs = [len(seeds)]
    while rungs[0] // factor >= first:
        shorter = to_block_end(math.ceil(rungs[0] / factor))
        if shorter >= rungs[0]:
            break
        rungs.insert(0, shorter)
    return tuple(rungs), tuple(to_block_end(count) + seeds[0] - start for count in rungs)


class SearchResult(NamedTuple):
    """Each rung's cells with their values, best first; the last rung is on all images."""

    rungs: list[tuple[int, list[tuple[Strength, float]]]]
    evaluations: float


def search(measure: Measure, space: Space, plan: Plan, *, lower: bool, seed: int) -> SearchResult:
    """Spend the budget. lower: whether lower values are better. seed: of the proposals.

    Raises UserError for a budget that is not enough for one batch.
    """
    plan.check()
    spent: dict[Strength, float] = {}
    values = _explore(measure, space, plan, lower, seed, spent)
    rungs = [(plan.rungs[0], _ranked(values, lower))]
    for number, (images, count) in enumerate(zip(plan.rungs[1:], plan.promotions(len(values)), strict=True)):
        left = plan.budget - plan.plain - sum(spent.values()) - plan.reserve(FINALISTS, number + 1)
        affordable = math.floor(left / (plan.added[number] * plan.nfe))
        chosen = [cell for cell, _ in rungs[-1][1][: max(min(count, affordable), FINALISTS)]]
        found = measure(chosen, images)
        spent |= {cell: item.evaluations for cell, item in found.items()}
        rungs.append((images, _ranked({cell: item.value for cell, item in found.items()}, lower)))
    return SearchResult(rungs, sum(spent.values()))


def _explore(
    measure: Measure, space: Space, plan: Plan, lower: bool, seed: int, spent: dict[Strength, float]
) -> dict[Strength, float]:
    """Proposals on the first rung, while the budget leaves enough for promoting them.

    Promoting is expected to share as much as exploring did; if it does not, fewer cells are promoted.
    """
    values: dict[Strength, float] = {}
    with quiet():
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=2 * plan.batch)
        study = optuna.create_study(direction="minimize" if lower else "maximize", sampler=sampler)
        cost = plan.batch * plan.sampled[0] * plan.nfe
        fruitless = 0
        while True:
            used = sum(spent.values())
            share = used / (len(spent) * plan.sampled[0] * plan.nfe) if spent else 1.0
            expected = share * (cost + plan.reserve(len(values) + plan.batch))
            if plan.plain + used + max(expected, cost + plan.reserve(FINALISTS)) > plan.budget:
                break
            trials = [study.ask() for _ in range(plan.batch)]
            cells = [_proposal(trial, space) for trial in trials]
            new = [cell for cell in dict.fromkeys(cells) if cell not in values]
            fruitless = 0 if new else fruitless + 1
            if fruitless == 3:
                break  # the sampler has settled: the rest of the budget would find nothing
            found = measure(new, plan.rungs[0]) if new else {}
            spent |= {cell: item.evaluations for cell, item in found.items()}
            values |= {cell: item.value for cell, item in found.items()}
            for trial, cell in zip(trials, cells, strict=True):
                study.tell(trial, values[cell])
    return values


def _proposal(trial: optuna.Trial, space: Space) -> Strength:
    numbers = [
        round(trial.suggest_float(name, *bounds, step=STEP), 6)
        for name, bounds in zip(Space._fields, space, strict=True)
    ]
    return Strength(*numbers)


def _ranked(values: Mapping[Strength, float], lower: bool) -> list[tuple[Strength, float]]:
    return sorted(values.items(), key=lambda item: item[1] if lower else -item[1])


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's line for every trial, and its warnings of what is new in it."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
