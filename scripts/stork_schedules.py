"""Prints docs/method.md's table on STORK's schedule: distance to the exact solution by schedule and cost."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

import erk_bench
from erk_bench.studies.analysis.mixture import tree

Net = Callable[..., Tensor]

SCHEDULES = (("time_uniform", 1.0), ("time_uniform", 2.0), ("polynomial", 7.0), ("logsnr", 7.0))
EVALUATIONS = (4, 6, 8, 12, 16)


def mixture_problem(points: int) -> tuple[Net, Tensor, None]:
    """The 2D tree with its exact denoiser, and so many starts."""
    mixture = tree("AB")

    def net(x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        levels = sigma.reshape(-1).expand(len(x))
        return mixture.denoised(x.flatten(1), levels).reshape(x.shape)

    generator = torch.Generator().manual_seed(0)
    return net, torch.randn(points, 2, 1, 1, dtype=torch.float64, generator=generator), None


def digits_problem(images: int) -> tuple[Net, Tensor, Tensor | None]:
    """The digits network and seeds that no table uses."""
    net = erk_bench.load_denoiser("digits")
    return net, *erk_bench.draw(range(1_000_000, 1_000_000 + images), net)


def row(count: int, net: Net, noise: Tensor, labels: Tensor | None, exact: Tensor) -> list[str]:
    """Distance to the exact solution by schedule: median over the mixture's points, or RMS over pixels."""
    cells = []
    for name, rho in SCHEDULES:
        x = erk_bench.sample(
            net, noise, labels, solver="stork", num_steps=count + 1, schedule=name, rho=rho, dtype=noise.dtype
        )
        error = (x - exact).flatten(1)
        size = error.norm(dim=1).median() if error.shape[1] == 2 else error.square().mean().sqrt()
        cells.append(f"{size:.2g}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=400, help="of the mixture (400)")
    parser.add_argument("--images", type=int, default=125, help="digits (125)")
    words = parser.parse_args()
    problems = []
    for (net, noise, labels), steps in (
        (mixture_problem(words.points), 400),
        (digits_problem(words.images), 150),
    ):
        exact = erk_bench.sample(net, noise, labels, num_steps=steps, dtype=noise.dtype)
        problems.append((net, noise, labels, exact))
    titles = [f"{name}, rho {rho:g}" if name != "logsnr" else name for name, rho in SCHEDULES]
    headers = [f"{problem}: {title}" for problem in ("mixture", "digits") for title in titles]
    print(f"| evaluations | {' | '.join(headers)} |")
    print("|---" * (len(headers) + 1) + "|")
    for count in EVALUATIONS:
        print(f"| {count} | {' | '.join(cell for problem in problems for cell in row(count, *problem))} |")


if __name__ == "__main__":
    main()
