"""Prints the tables of docs/analysis.md: alignment, end points and controls on the exact 2D mixture."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from erk_bench.sampling.corrections import CORRECTIONS, Correct, Corrected, erk_guid, no_correction
from erk_bench.sampling.loop import Run, integrate
from erk_bench.sampling.solvers import heun_step
from erk_bench.sampling.steps import Step
from erk_bench.studies.analysis.figures import guiding_directions
from erk_bench.studies.analysis.measure import SIGMA_MAX, SIGMA_MIN, cosine, end_points, levels, measure
from erk_bench.studies.analysis.mixture import GaussianMixture, tree

OTHERS = (("erk_alpha", 1.0, 0.5), ("erk_gauss", 1.0, 0.0), ("erk_dx", 1.0, 0.0), ("erk_proj", 0.1, 0.0))
COUNTS = (8, 16, 32)
BINS = (0.0, 1.0, 10.0, 30.0, math.inf)


def alignment(mixture: GaussianMixture, start: Tensor) -> Iterator[str]:
    """|cos| with the dominant eigenvector by |lambda|, for several step counts."""
    yield "| steps | lambda | steps there | LTE | dx | df | R / lambda (median) |"
    yield "|---" * 7 + "|"
    for steps in (32, 16, 8, 4):
        found = measure(mixture, start, levels(steps))
        for low, high in itertools.pairwise(BINS):
            rows = (found.size >= low) & (found.size < high)
            if rows.sum() < 10:
                continue
            cells = [
                f"{cosine(each, found.eigenvector)[rows].mean().item():.3f}"
                for each in (found.lte, found.dx, found.df)
            ]
            ratio = (found.estimate / found.size)[rows].median().item()
            yield f"| {steps} | {low:g} to {high:g} | {int(rows.sum())} | {' | '.join(cells)} | {ratio:.3f} |"


def flipped(correct: Correct) -> Correct:
    """The correction with its sign turned."""

    def turned(step: Step) -> Corrected:
        found = correct(step)
        return found._replace(x_next=2 * step.x_next - found.x_next)

    return turned


def along(direction: Callable[[Step], Tensor], correct: Correct) -> Correct:
    """As far as `correct` moves each sample, but along another direction [B, 2], towards the same side."""

    def moved(step: Step) -> Corrected:
        found = correct(step)
        shift = found.x_next - step.x_next
        unit = torch.nn.functional.normalize(direction(step), dim=1)
        side = torch.sign((shift * unit).sum(dim=1, keepdim=True))
        return found._replace(x_next=step.x_next + side * shift.norm(dim=1, keepdim=True) * unit)

    return moved


def guidance(mixture: GaussianMixture, start: Tensor) -> Iterator[str]:
    """|cos| of directions of guidance with the dominant eigenvector at the start of a step, 32 steps."""
    found = measure(mixture, start, levels(32))
    directions = {"erk_guid": found.used} | guiding_directions(found)
    cells = [cosine(vectors, found.start_vector) for vectors in directions.values()]
    size = found.at_start.abs()
    yield f"| lambda | {' | '.join(directions)} |"
    yield "|---" * (1 + len(cells)) + "|"
    for low, high in itertools.pairwise(BINS):
        rows = (size >= low) & (size < high)
        means = " | ".join(f"{cell[rows].nanmean().item():.3f}" for cell in cells)
        yield f"| {low:g} to {high:g} | {means} |"


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 64) -> float:
    """Mean Wasserstein-1 distance of two sets of points [N, 2] over directions evenly round the circle."""
    angles = torch.arange(directions, dtype=torch.float64) * math.pi / directions
    axes = torch.stack([angles.cos(), angles.sin()])
    return ((a @ axes).sort(dim=0).values - (b @ axes).sort(dim=0).values).abs().mean().item()


def ends(mixture: GaussianMixture, start: Tensor) -> Iterator[str]:
    """End points: distance from the exact ones, NLL at the last noise level, sliced Wasserstein distance
    between the two sets."""
    exact = end_points(mixture, start, 32)

    def row(name: str, correct: Correct) -> str:
        cells = []
        for steps in COUNTS:
            run = Run(heun_step, 1, levels(steps), to_zero=False)
            x = integrate(mixture.denoised, start, run, None, correct)
            nll = -mixture.log_density(x, SIGMA_MIN).mean().item()
            error = (x - exact).norm(dim=1).mean().item()
            cells.append(f"{error:.4f} | {nll:.2f} | {sliced_wasserstein(x, exact):.4f}")
        return f"| {name} | {' | '.join(cells)} |"

    generator = torch.Generator().manual_seed(1)
    yield f"| correction | {' | '.join(f'{count} steps: error | NLL | SW' for count in COUNTS)} |"
    yield "|---" * 10 + "|"
    nll = -mixture.log_density(exact, SIGMA_MIN).mean().item()
    yield f"| exact solution | {' | '.join([f'0 | {nll:.2f} | 0'] * 3)} |"
    yield row("none (Heun)", no_correction)
    for w_stiff, w_con in itertools.product((0.25, 0.408, 0.5, 0.75, 1.0), (0.1, 0.5, 2.0)):
        yield row(f"erk_guid ({w_stiff:g}, {w_con:g})", erk_guid(w_stiff, w_con))
    for name, strength, gate in OTHERS:
        yield row(f"{name} ({strength:g}, {gate:g})", CORRECTIONS[name].make(strength, gate))
    control = erk_guid(0.5, 0.5)
    yield row("control: erk_guid (0.5, 0.5), sign flipped", flipped(control))
    yield row(
        "control: the same length, random direction",
        along(lambda step: torch.randn(step.x_next.shape, dtype=torch.float64, generator=generator), control),
    )
    yield row("control: the same length, along the slope", along(lambda step: step.node.slope, control))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=160, help="trajectories (160)")
    parser.add_argument("--seed", type=int, default=0, help="of their starting points (0)")
    words = parser.parse_args()
    mixture = tree("A")
    start = mixture.sample(words.count, SIGMA_MAX, torch.Generator().manual_seed(words.seed))
    for part in (alignment, guidance, ends):
        for line in part(mixture, start):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
