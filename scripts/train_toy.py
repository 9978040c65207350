"""Trains the three small denoisers of the 2D mixture that Figure 2(c) takes CFG and autoguidance from."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.progress import Progress
from safetensors.torch import save

from erk_bench.base.files import write_atomic
from erk_bench.studies.analysis.toy_networks import RECIPES, WEIGHTS, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=WEIGHTS, help="file (the package's own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=float, default=1.0, help="share of each recipe's (1)")
    words = parser.parse_args()
    generator = torch.Generator().manual_seed(words.seed)
    weights: dict[str, torch.Tensor] = {}
    with Progress() as bar:
        for name, recipe in RECIPES.items():
            shortened = recipe._replace(iterations=max(1, round(recipe.iterations * words.iterations)))
            task = bar.add_task(name, total=shortened.iterations)
            losses: list[float] = []

            def shown(iteration: int, loss: float, losses: list[float] = losses, task: object = task) -> None:
                losses.append(loss)
                bar.advance(task)  # type: ignore[arg-type]  # a default hides its type

            network = train(shortened, generator, shown)
            last = losses[-len(losses) // 10 :]
            bar.print(f"{name}: weighted squared error {sum(last) / len(last):.4f} over the last tenth")
            weights |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
    write_atomic(words.to, save(weights))
    print(f"wrote {words.to}")


if __name__ == "__main__":
    main()
