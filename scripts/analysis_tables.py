"""Prints the tables of docs/analysis.md: alignment, end points and controls on the exact 2D mixture."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from erk_bench.analysis.measure import SIGMA_MAX, SIGMA_MIN, cosine, end_points, levels, measure
from erk_bench.analysis.mixture import GaussianMixture, tree
from erk_bench.sampling.corrections import CORRECTIONS, Corrected, Correction, erk_guid, no_correction
from erk_bench.sampling.loop import Run, integrate
from erk_bench.sampling.solvers import heun_step
from erk_bench.sampling.steps import Step

OTHERS = (("erk_alpha", 1.0, 0.5), ("erk_gauss", 1.0, 0.0), ("erk_dx", 1.0, 0.0), ("erk_proj", 0.1, 0.0))
RULE = "|---|---|---|---|---|---|---|"
BINS = (0.0, 1.0, 10.0, 30.0, math.inf)


def alignment(mixture: GaussianMixture, start: Tensor) -> Iterator[str]:
    """|cos| with the dominant eigenvector by |lambda|, for several step counts."""
    yield "| steps | lambda | steps there | LTE | dx | df | R / lambda (median) |"
    yield RULE
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


def flipped(correct: Correction) -> Correction:
    """The correction with its sign turned."""

    def turned(step: Step) -> Corrected:
        found = correct(step)
        return found._replace(x_next=2 * step.x_next - found.x_next)

    return turned


def along(direction: Callable[[Step], Tensor], correct: Correction) -> Correction:
    """As far as `correct` moves each sample, but along another direction [B, 2], towards the same side."""

    def moved(step: Step) -> Corrected:
        found = correct(step)
        shift = found.x_next - step.x_next
        unit = torch.nn.functional.normalize(direction(step), dim=1)
        side = torch.sign((shift * unit).sum(dim=1, keepdim=True))
        return found._replace(x_next=step.x_next + side * shift.norm(dim=1, keepdim=True) * unit)

    return moved


def ends(mixture: GaussianMixture, start: Tensor) -> Iterator[str]:
    """Distance of end points from the exact ones, and NLL at the last noise level."""
    exact = end_points(mixture, start, 32)

    def row(name: str, correct: Correction) -> str:
        cells = []
        for steps in (8, 16, 32):
            run = Run(heun_step, 1, levels(steps), to_zero=False)
            x = integrate(mixture.denoised, start, run, None, correct)
            nll = -mixture.log_density(x, SIGMA_MIN).mean().item()
            cells.append(f"{(x - exact).norm(dim=1).mean().item():.4f} | {nll:.2f}")
        return f"| {name} | {' | '.join(cells)} |"

    generator = torch.Generator().manual_seed(1)
    yield "| correction | 8 steps: error | NLL | 16: error | NLL | 32: error | NLL |"
    yield RULE
    nll = -mixture.log_density(exact, SIGMA_MIN).mean().item()
    yield f"| exact solution | 0 | {nll:.2f} | 0 | {nll:.2f} | 0 | {nll:.2f} |"
    yield row("none (Heun)", no_correction)
    for w_stiff, w_con in itertools.product((0.25, 0.408, 0.5, 0.75, 1.0), (0.1, 0.5, 2.0)):
        yield row(f"erk_guid ({w_stiff:g}, {w_con:g})", erk_guid(w_stiff, w_con))
    for name, strength, gate in OTHERS:
        yield row(f"{name} ({strength:g}, {gate:g})", CORRECTIONS[name](strength, gate))
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
    for part in (alignment, ends):
        for line in part(mixture, start):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
