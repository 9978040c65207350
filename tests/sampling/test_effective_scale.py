"""The effective scale of a guidance: in units of classifier-free guidance."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.sampling.effective_scale import effective_scale
from erk_bench.sampling.sample import equation_from
from tests.sampling.test_guidance import uneven
from tests.sampling.test_solvers import noise

LEVELS = [5.0, 2.0, 0.9, 0.3, 0.05]


def scale(method: str = "cfg", weight: float = 2.5, **options: Any) -> torch.Tensor:
    given = {"solver": "euler", "sigmas": LEVELS, "dtype": torch.float64, **options}
    equation = equation_from(guidance_method=method, guidance=weight, **given)
    return effective_scale(equation, uneven(0.7), noise(), guide=uneven(2.0))


@pytest.mark.parametrize("solver", ["euler", "heun", "deis"])
@pytest.mark.parametrize("weight", [0.5, 1.0, 2.5])
def test_that_of_cfg_is_its_weight(weight: float, solver: str) -> None:
    found = scale("cfg", weight, solver=solver)
    assert found.shape == (3,)
    assert torch.allclose(found, torch.full_like(found, weight), rtol=1e-9)


def test_outside_of_the_interval_it_is_one() -> None:
    """Of five evaluations two are guided."""
    found = scale(guidance_interval=(0.3, 2.0))
    assert torch.allclose(found, torch.full_like(found, (2 * 2.5 + 3) / 5), rtol=1e-9)


def test_that_of_fitted_cfg_is_the_mean_of_its_weights() -> None:
    ratios = [low / high for high, low in pairwise([*LEVELS, 0.0])]
    mean = sum(1 + (r - r**2.5) / (1 - r) for r in ratios) / len(ratios)
    found = scale("fitted_cfg")
    assert torch.allclose(found, torch.full_like(found, mean), rtol=1e-9) and mean < 2.5


def test_a_part_across_the_difference_does_not_count() -> None:
    """APG takes away what lies along the main prediction: each sample has its own scale, below the weight."""
    found = scale("apg")
    assert (found < 2.5).all() and (found >= 1).all() and len(set(found.tolist())) == 3
    alone = effective_scale(
        equation_from(
            guidance_method="apg", guidance=2.5, solver="euler", sigmas=LEVELS, dtype=torch.float64
        ),
        uneven(0.7), noise()[1:2], guide=uneven(2.0),
    )  # fmt: skip
    assert torch.allclose(alone, found[1:2], rtol=1e-12)


def test_steps_without_an_evaluation_do_not_count() -> None:
    """CFG-Zero*'s zero steps are told to the guidance as in any run."""
    found = scale("cfg_zero_star", guidance_options={"zero_steps": 4})
    assert found.shape == (3,) and found.isfinite().all()


def test_adaptive_steps_are_refused() -> None:
    with pytest.raises(UserError, match="choose a solver of fixed steps"):
        scale(solver="heun_adaptive")
