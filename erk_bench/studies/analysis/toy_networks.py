"""Three small denoisers of the 2D mixture, for the directions of model guidance in Figure 2(c)."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import silu

from erk_bench.base.errors import unknown_name
from erk_bench.studies.analysis.mixture import tree

WEIGHTS = Path(__file__).with_name("toy_networks.safetensors")
SIGMA_DATA = 0.5


class ToyRecipe(NamedTuple):
    """What a network learns: a class of the tree, the width of its layers, iterations of training."""

    classes: str
    width: int
    iterations: int


# As in autoguidance, the weaker network is smaller and trained less.
RECIPES = {
    "conditional": ToyRecipe("A", 64, 20000),
    "unconditional": ToyRecipe("AB", 64, 20000),
    "weaker": ToyRecipe("A", 32, 1000),
}
DEPTH, BATCH = 3, 4096
SIGMA_RANGE = (0.002, 20.0)  # of training, log-uniform; above, all data are one point


class ToyNetwork(torch.nn.Module):
    """Multilayer perceptron in EDM's preconditioning (arXiv 2206.00364, section 5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [3, *[width] * DEPTH, 2]
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(sizes)
        )

    def forward(self, x: Tensor, sigma: float | Tensor, labels: Tensor | None = None) -> Tensor:
        """Denoised points [N, 2] of noisy ones, in their dtype; sigma is a number or [N]."""
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1).expand(len(x), 1)
        total = level**2 + SIGMA_DATA**2
        hidden = torch.cat([x / total.sqrt(), level.log() / 4], dim=1).float()
        for layer in self.layers[:-1]:
            hidden = silu(layer(hidden))
        out = self.layers[-1](hidden).to(x.dtype)
        return SIGMA_DATA**2 / total * x + level * SIGMA_DATA / total.sqrt() * out


def train(
    recipe: ToyRecipe, generator: torch.Generator, progress: Callable[[int, float], None] = lambda *_: None
) -> ToyNetwork:
    """Denoising score matching on draws of the mixture, with EDM's weighting of noise levels.

    progress(iteration, loss) is called after each.
    """
    mixture = tree(recipe.classes)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        network = ToyNetwork(recipe.width)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.iterations)
    low, high = map(math.log, SIGMA_RANGE)
    for iteration in range(recipe.iterations):
        sigma = (low + (high - low) * torch.rand(BATCH, dtype=torch.float64, generator=generator)).exp()
        data = mixture.sample(BATCH, 0.0, generator)
        x = data + sigma[:, None] * torch.randn(BATCH, 2, dtype=torch.float64, generator=generator)
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        loss = (weight[:, None] * (network(x, sigma) - data) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        progress(iteration, loss.item())
    return network.requires_grad_(False)


@functools.cache
def toy_network(name: str) -> ToyNetwork:
    """A trained network of RECIPES (made by scripts/train_toy.py). Raises UserError for another name."""
    if name not in RECIPES:
        raise unknown_name("toy network", name, RECIPES)
    stored = load_file(WEIGHTS)
    network = ToyNetwork(RECIPES[name].width)
    own = {key.removeprefix(f"{name}."): value for key, value in stored.items() if key.startswith(f"{name}.")}
    network.load_state_dict(own)
    return network.requires_grad_(False)
