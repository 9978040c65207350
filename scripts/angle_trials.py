"""What was tried on steps in the angle (docs/theory.md): orders, weights, starts, corrector, pairs, spectra.

FD-digits of 1,000 images of seeds that no table uses, and the mean over 125 of them of the root mean square
distance (pixels of the final state) to 64 steps of Heun's method.
Usage: python scripts/angle_trials.py [--images 1000] [--to results/bench/angle-trials.md]
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import erk_bench
from erk_bench import Node, Step
from erk_bench.base.assets import Assets
from erk_bench.base.files import write_atomic
from erk_bench.digits.data import NUM_CLASSES, decode, encode, load_digits
from erk_bench.evaluation.detectors import DIGITS_WEIGHTS, load_digits_detector
from erk_bench.evaluation.frechet import FeatureSums, FrechetTarget
from erk_bench.sampling.angle import angle_step
from erk_bench.sampling.schedules import angle
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.sampling.steps import Slope

GUIDE = "package:digits/weights/unconditional.safetensors"
FIRST, NEAR, CONVERGED = 1_000_000, 125, 64
SD = 0.5
PLACES = ((1.0, 4), (1.0, 6), (1.25, 4), (1.25, 6))
NARROWEST = 0.03  # width of a component of the spectrum, at least


def halfway(slope: Slope, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Step]) -> Step:
    """Half way between polynomial and trigonometric weights, as erk_dx is between narrow and wide data."""
    node = Node(x, slope(x, sigma), sigma)

    def known(x: Tensor, sigma: float | Tensor, rows: Tensor | None = None) -> Tensor:
        return node.slope

    both = [
        angle_step(known, x, sigma, sigma_next, history, basis=basis)
        for basis in ("polynomial", "trigonometric")
    ]
    return both[0]._replace(x_next=(both[0].x_next + both[1].x_next) / 2)


def richardson(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    levels: tuple[float, ...],
    order: int = 1,
) -> Step:
    """RX: after two steps, the step over both from every second evaluation takes the leading error away."""
    step = angle_step(slope, x, sigma, sigma_next, history, max_order=order)
    number = levels.index(sigma)
    if number % 2 == 0 or (order == 2 and number < 3):
        return step
    before = history[-1].node
    past = [history[-3]] if order == 2 else []
    coarse = angle_step(
        lambda *_: before.slope, before.x, before.sigma, sigma_next, past, max_order=order
    ).x_next
    a = [math.atan(level / SD) for level in levels[: number + 2]]
    h = [start - end for start, end in itertools.pairwise(a)]
    if order == 1:
        of_coarse, of_fine = (h[-1] + h[-2]) ** 2, h[-1] ** 2 + h[-2] ** 2
    else:
        both, past_both = h[-1] + h[-2], h[-3] + h[-4]
        of_coarse = both**2 * (past_both / 4 + both / 6)
        of_fine = sum(own**2 * (last / 4 + own / 6) for last, own in itertools.pairwise(h[-3:]))
    return step._replace(x_next=(of_coarse * step.x_next - of_fine * coarse) / (of_coarse - of_fine))


class Spectrum(NamedTuple):
    """Gaussian data: mean [64], directions [64, 64] in columns, and the width [64] of each."""

    mean: Tensor
    directions: Tensor
    widths: Tensor


@functools.cache
def spectrum(*, within: bool) -> Spectrum:
    """That of the real digits; within: about the mean of their class."""
    real, labels = encode(load_digits().images).flatten(1).double(), load_digits().labels
    centred = real - real.mean(0)
    if within:
        means = torch.stack([real[labels == each].mean(0) for each in range(NUM_CLASSES)])
        centred = real - means[labels]
    values, directions = torch.linalg.eigh(centred.T @ centred / len(real))
    return Spectrum(real.mean(0).float(), directions.float(), values.clamp(min=NARROWEST**2).sqrt().float())


def spectral(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    within: bool = False,
) -> Step:
    """An angle of its own for every principal component of the digits, by sine and cosine; exact for their
    Gaussian."""
    mean, directions, widths = spectrum(within=within)
    node = Node(x, slope(x, sigma), sigma)

    def parts(node: Node) -> tuple[Tensor, Tensor, Tensor]:
        """Angles [64], scaled states and outputs [B, 64] by component."""
        length = (node.sigma**2 + widths**2).sqrt()
        z = (node.x.flatten(1) - mean) @ directions
        f = node.slope.flatten(1) @ directions
        return torch.atan(node.sigma / widths), z / length, (node.sigma / length * z - length * f) / widths

    theta, y, now = parts(node)
    end = torch.atan(sigma_next / widths)
    if not history:
        y = y - (theta.cos() - end.cos()) / theta.sin() * now
    else:
        other, _, last = parts(history[-1].node)
        # Integrals of sin(angle - other) and sin(theta - angle), over sin(theta - other).
        before = theta - other
        first = (before.cos() - (end - other).cos()) / before.sin()
        second = ((theta - end).cos() - 1) / before.sin()
        y = y - first * now - second * last
    z = y * (sigma_next**2 + widths**2).sqrt()
    return Step((z @ directions.T + mean).reshape(x.shape), node, None, sigma - sigma_next, None)


def gaussian_start(
    slope: Slope, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Step], *, centred: bool = True
) -> Step:
    """The first step without an evaluation, as if the data were a Gaussian of width 0.5 about their mean (or
    about zero)."""
    if history:
        return angle_step(slope, x, sigma, sigma_next, history[1:], basis="trigonometric")
    mean = spectrum(within=False).mean.reshape(1, *x.shape[1:]) if centred else 0.0
    x_next = mean + (x - mean) * (math.hypot(sigma_next, SD) / math.hypot(sigma, SD))
    return Step(x_next, Node(x, x, sigma), None, sigma - sigma_next, None)


def as_it_is(slope: Slope, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Step]) -> Step:
    """With the pair that DEIS has: this evaluation and the last one at their own noise levels."""
    step = angle_step(slope, x, sigma, sigma_next, history, basis="trigonometric")
    if not history:
        return step
    last = history[-1].node
    return step._replace(partner=last, span=last.sigma - sigma)


def of(step: Callable[..., Step], **options: Any) -> dict[str, Any]:
    """Options of `erk_bench.sample` for a step function on levels uniform in the angle."""
    row = SOLVERS["angle"]._replace(step=functools.partial(step, **options), paired=True, options={})
    return {"solver": row}


def erk(w_stiff: float) -> dict[str, Any]:
    """ERK-Guid with an open gate."""
    return {"w_stiff": w_stiff, "w_con": 0.0}


START = 5.0  # noise level that a start without an evaluation leads to
TRIALS: dict[str, dict[str, Any]] = {
    **{f"order {order}": {"solver": "angle", "max_order": order} for order in (1, 2, 3, 4)},
    "trigonometric": {"solver": "angle", "basis": "trigonometric"},
    "trigonometric, order 3": {"solver": "angle", "basis": "trigonometric", "max_order": 3},
    "corrector": {"solver": "angle", "corrector": True},
    "trigonometric, corrector": {"solver": "angle", "basis": "trigonometric", "corrector": True},
    "trigonometric, order 3, corrector": {
        "solver": "angle", "basis": "trigonometric", "max_order": 3, "corrector": True,
    },
    "trigonometric, corrector, levels in theta^(1/1.5)": {
        "solver": "angle", "basis": "trigonometric", "corrector": True, "schedule": "angle", "rho": 1.5,
    },
    "half way to trigonometric": of(halfway),
    "RX of order 1": of(richardson),
    "RX of order 2": of(richardson, order=2),
    "spectrum of the digits": of(spectral),
    "spectrum within classes": of(spectral, within=True),
    "Gaussian start about zero": of(gaussian_start, centred=False),
    "Gaussian start about the mean": of(gaussian_start),
    "trigonometric, ERK-Guid (0.5, 0)": {"solver": "angle", "basis": "trigonometric", **erk(0.5)},
    "trigonometric, ERK-Guid (1, 0)": {"solver": "angle", "basis": "trigonometric", **erk(1.0)},
    "trigonometric, corrector, ERK-Guid (0.5, 0)": {
        "solver": "angle", "basis": "trigonometric", "corrector": True, **erk(0.5),
    },
    "trigonometric, ERK-Guid (0.5, 0) on the pair of DEIS": {**of(as_it_is), **erk(0.5)},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--to", type=Path)
    given = parser.parse_args()
    assets = Assets.from_environment()
    net, guide = erk_bench.load_denoiser("digits"), erk_bench.load_denoiser(str(assets.locate(GUIDE)))
    extract = load_digits_detector(assets.locate(DIGITS_WEIGHTS))
    target = FrechetTarget(FeatureSums.of(extract(load_digits().images)["features"]).stats())
    noise, labels = erk_bench.draw(range(FIRST, FIRST + given.images), net)
    few = (noise[:NEAR], None if labels is None else labels[:NEAR])
    guided = {weight: {"guide": guide, "guidance": weight} if weight != 1 else {} for weight, _ in PLACES}
    exact = {
        weight: erk_bench.sample(net, *few, num_steps=CONVERGED, **options)
        for weight, options in guided.items()
    }
    titles = [f"{'CFG 1.25' if weight != 1 else 'none'}, {count}" for weight, count in PLACES]
    lines = [
        f"Made by `python {' '.join(sys.argv)}`.\n",
        f"FD-digits, distance to the converged solution; by guidance and evaluations (seeds {FIRST}, ...).\n",
        f"| trial | {' | '.join(titles)} |",
        "|---" * (len(titles) + 1) + "|",
    ]
    print("\n".join(lines), flush=True)
    for name, options in TRIALS.items():
        cells = []
        for weight, count in PLACES:
            levels = {"num_steps": count + 1}
            if "start" in name:
                below = angle(count + 1, 0.002, START, 1.0, torch.float64).tolist()
                levels = {"sigmas": [80.0, *below]}
            x = erk_bench.sample(net, noise, labels, **levels, **options, **guided[weight])
            distance = target.distance(FeatureSums.of(extract(decode(x))["features"]).stats())
            error = (x[:NEAR] - exact[weight]).square().flatten(1).mean(1).sqrt().mean()
            cells.append(f"{distance:.4f}, {error:.4f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if given.to:
        write_atomic(given.to, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
