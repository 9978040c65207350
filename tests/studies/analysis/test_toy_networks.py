"""The small denoisers of Figure 2(c): trained, shipped, and what they say of guidance."""

from __future__ import annotations

import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.studies.analysis.figures import guiding_directions
from erk_bench.studies.analysis.measure import SIGMA_MAX, cosine, levels, measure
from erk_bench.studies.analysis.mixture import tree
from erk_bench.studies.analysis.toy_networks import RECIPES, ToyRecipe, toy_network, train


def relative_error(name: str, classes: str) -> float:
    """Root mean square of the error over that of the denoised point's distance from its mean, sigma 0.1."""
    generator = torch.Generator().manual_seed(5)
    x = tree(classes).sample(2000, 0.1, generator)
    exact = tree(classes).denoised(x, 0.1)
    error = toy_network(name)(x, 0.1) - exact
    return (error.square().mean() / (exact - exact.mean(dim=0)).square().mean()).sqrt().item()


def test_shipped_networks_denoise_their_class() -> None:
    main, weaker = relative_error("conditional", "A"), relative_error("weaker", "A")
    assert main < 0.1 and relative_error("unconditional", "AB") < 0.1
    assert main < 0.7 * weaker < 0.3
    assert relative_error("conditional", "B") > 0.5


def test_training_lowers_the_loss_and_repeats() -> None:
    losses: list[float] = []
    recipe = ToyRecipe("A", 16, 60)
    first = train(recipe, torch.Generator().manual_seed(1), lambda _, loss: losses.append(loss))
    again = train(recipe, torch.Generator().manual_seed(1))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_networks_by_unknown_names() -> None:
    with pytest.raises(UserError, match="conditional, unconditional, weaker"):
        toy_network("strong")
    assert set(RECIPES) == {"conditional", "unconditional", "weaker"}


def test_guidance_aligns_less_than_erk_guid_where_it_is_stiff() -> None:
    start = tree("A").sample(60, SIGMA_MAX, torch.Generator().manual_seed(0))
    found = measure(tree("A"), start, levels(32), substeps=1)
    stiff = found.at_start.abs() > 30
    aligned = {
        key: cosine(vectors, found.start_vector)[stiff].nanmean().item()
        for key, vectors in {"erk_guid": found.used, **guiding_directions(found)}.items()
    }
    assert aligned["erk_guid"] > 0.87
    assert aligned["autoguidance"] < aligned["erk_guid"] - 0.05
    assert aligned["cfg"] < 0.85 and aligned["cfg_exact"] < 0.5
