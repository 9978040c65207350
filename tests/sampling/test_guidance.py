"""Model guidance: formulas, where it acts, what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from erk_bench import sample
from erk_bench.base.errors import UserError
from erk_bench.sampling.corrections import no_correction
from erk_bench.sampling.equation import Equation, guidance_part
from erk_bench.sampling.guidance import EVERYWHERE, GUIDANCES, Denoiser, apg, cfgpp, guided, keeps_state
from erk_bench.sampling.loop import Run, integrate
from erk_bench.sampling.sample import sample_counted
from erk_bench.sampling.solvers import euler_step
from erk_bench.spec import ACTS_AT_ONE
from tests.sampling.test_solvers import gaussian, noise

LEVELS = [5.0, 2.0, 0.9, 0.3, 0.05]
GUIDING = [name for name, row in GUIDANCES.items() if row.role]


def wide(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    """Another denoiser: data of standard deviation 2."""
    return x * 4 / (4 + sigma**2)


def test_guidance_is_the_weighted_difference() -> None:
    x, sigma = noise(), 0.8
    both = guided(
        lambda x, s, y: gaussian(x, torch.tensor(s), y), lambda x, s, y: wide(x, torch.tensor(s), y), 1.7
    )(x, sigma, None)
    level = torch.tensor(sigma)
    expected = wide(x, level, None) + 1.7 * (gaussian(x, level, None) - wide(x, level, None))
    assert torch.allclose(both, expected, rtol=1e-12)


def test_weight_one_never_evaluates_the_guide() -> None:
    def fails(*_: object) -> Tensor:
        raise AssertionError("the guiding network was evaluated")

    alone = sample(gaussian, noise(), num_steps=4)
    assert torch.equal(alone, sample(gaussian, noise(), num_steps=4, guide=fails, guidance=1.0))


def test_interval_limits_where_the_guide_acts() -> None:
    """Open below, closed above; evaluations of the guide are counted apart."""
    seen: list[float] = []

    def watching(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        seen.append(sigma.item())
        return wide(x, sigma, labels)

    options = {"num_steps": 8, "guide": watching, "guidance": 2.0, "dtype": torch.float64}
    everywhere = sample_counted(gaussian, noise(), **options)
    assert everywhere.nfe_guide == everywhere.nfe == 15
    levels = sorted(set(seen))
    low, high = levels[2], levels[5]
    seen.clear()
    inside = sample_counted(gaussian, noise(), guidance_interval=(low, high), **options)
    assert sorted(set(seen)) == levels[3:6]
    assert inside.nfe_guide == len(seen) < 15
    assert inside.nfe == 15


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"solver": "huen"}, "did you mean 'heun'"),
        ({"schedule": "polynomal"}, "did you mean 'polynomial'"),
        ({"w_stif": 1.0}, "did you mean 'w_stiff'"),
        ({"guidance": 1.5}, "no guide"),
        ({"guidance_method": "cfgpp"}, "no guide"),
        ({"guidance_method": "cgf"}, "did you mean 'cfg'"),
        ({"guidance_options": {"eta": 1.0}}, "guidance 'cfg' has no option 'eta'"),
        (
            {
                "guidance": 1.5,
                "guidance_method": "apg",
                "guidance_options": {"momentum": -0.5},
                "guide": gaussian,
                "solver": "heun_adaptive",
            },
            "set momentum=0, or choose a solver of fixed steps",
        ),
        ({"w_stiff": 1.0, "s_churn": 4.0}, "deterministic"),
        ({"num_steps": 1}, "at least 2"),
    ],
)
def test_bad_options(options: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        sample(gaussian, noise(), **options)  # type: ignore[arg-type]  # wrong on purpose
    if "w_stif" in options:
        with pytest.raises(TypeError, match="num_steps"):  # the valid names are listed
            sample(gaussian, noise(), **options)  # type: ignore[arg-type]


def normal(spread: float, seen: list[Any] | None = None) -> Denoiser:
    """Denoiser of Gaussian data about a mean that the labels add to, for a level or one a sample."""

    def denoiser(x: Tensor, sigma: float | Tensor, labels: Tensor | None) -> Tensor:
        if seen is not None:
            seen.append(sigma)
        variance = (torch.as_tensor(sigma, dtype=x.dtype) ** 2).reshape(-1, 1, 1, 1)
        mean = 0.3 if labels is None else labels.reshape(-1, 1, 1, 1)
        return mean + (x - mean) * spread**2 / (spread**2 + variance)

    return denoiser


def made(
    name: str, main: Denoiser, guiding: Denoiser, interval: tuple[float, float] = EVERYWHERE
) -> Denoiser:
    return GUIDANCES[name].make(main, guiding, 0.6, interval, LEVELS)


@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0])
def test_euler_with_cfgpp_is_the_published_recursion(weight: float) -> None:
    """x_next = D_w + (s_next / s) (x - D_u), down to zero."""
    main, guiding = normal(0.7), normal(2.0)
    x = noise() * LEVELS[0]
    denoiser = cfgpp(main, guiding, weight, EVERYWHERE, LEVELS)
    found = integrate(denoiser, x, Run(euler_step, 0, LEVELS), None, no_correction)
    for sigma, sigma_next in pairwise([*LEVELS, 0.0]):
        conditional, unconditional = main(x, sigma, None), guiding(x, sigma, None)
        mixed = unconditional + weight * (conditional - unconditional)
        x = mixed + sigma_next / sigma * (x - unconditional)
    assert torch.allclose(found, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("sigma", "factor"),
    [(7.0, 5 / 3), (5.0, 5 / 3), (2.1, 5 / 3), (2.0, 2 / 1.1), (0.3, 0.3 / 0.25), (0.05, 1.0), (0.01, 1.0)],
)
def test_cfgpp_weighs_by_the_step_that_sigma_lies_in(sigma: float, factor: float) -> None:
    """Each step holds its upper level; above the first level (churn) the first step's weight goes on."""
    x, main, guiding = noise(), normal(0.7), normal(2.0)
    found = cfgpp(main, guiding, 0.6, EVERYWHERE, LEVELS)(x, sigma, None)
    expected = guided(main, guiding, 0.6 * factor)(x, sigma, None)
    assert torch.allclose(found, expected, rtol=1e-12)


def test_apg_is_cfg_where_nothing_is_taken_away() -> None:
    x, main, guiding = noise(), normal(0.7), normal(2.0)
    found = apg(main, guiding, 1.8, EVERYWHERE, LEVELS, eta=1.0)(x, 0.9, None)
    assert torch.allclose(found, guided(main, guiding, 1.8)(x, 0.9, None), rtol=1e-12)
    assert not torch.allclose(found, apg(main, guiding, 1.8, EVERYWHERE, LEVELS)(x, 0.9, None), atol=1e-3)


@pytest.mark.parametrize("eta", [0.0, 0.4])
@pytest.mark.parametrize("threshold", [0.0, 0.8])
@pytest.mark.parametrize("momentum", [0.0, -0.5])
def test_apg_follows_its_formula(eta: float, threshold: float, momentum: float) -> None:
    """Three evaluations of one trajectory, sample by sample, the projection written out."""
    x, main, guiding, weight = noise(), normal(0.7), normal(2.0), 2.5
    found = apg(
        main, guiding, weight, EVERYWHERE, LEVELS, eta=eta, norm_threshold=threshold, momentum=momentum
    )
    last = torch.zeros_like(x)
    shortened = 0
    for sigma in (5.0, 2.0, 0.9):
        denoised, other = main(x, sigma, None), guiding(x, sigma, None)
        last = denoised - other + momentum * last
        expected = []
        for k in range(len(x)):
            update = last[k]
            if threshold and update.norm() > threshold:
                update = update / update.norm() * threshold
                shortened += 1
            along = denoised[k] / denoised[k].norm()
            parallel = (update * along).sum() * along
            expected.append(denoised[k] + (weight - 1) * (update - parallel + eta * parallel))
        assert torch.allclose(found(x, sigma, None), torch.stack(expected), rtol=1e-10, atol=1e-12)
    assert (shortened > 0) == (threshold > 0)
    assert shortened < 9  # some updates were short enough


def test_momentum_begins_anew_with_each_run() -> None:
    x, main, guiding = noise(), normal(0.7), normal(2.0)

    def first() -> Tensor:
        return apg(main, guiding, 2.0, EVERYWHERE, LEVELS, momentum=0.5)(x, 0.9, None)

    assert torch.equal(first(), first())
    assert torch.equal(first(), apg(main, guiding, 2.0, EVERYWHERE, LEVELS)(x, 0.9, None))


@pytest.mark.parametrize("name", GUIDING)
def test_every_guidance_keeps_to_its_interval(name: str) -> None:
    """Open below, closed above; outside it is the main denoiser and the guide is not evaluated."""
    seen: list[Any] = []
    x, main = noise(), normal(0.7)
    denoiser = made(name, main, normal(2.0, seen), (0.3, 2.0))
    for sigma in (2.5, 0.3, 0.1):
        assert torch.equal(denoiser(x, sigma, None), main(x, sigma, None))
    assert not seen
    for sigma in (2.0, 0.5):
        assert not torch.allclose(denoiser(x, sigma, None), main(x, sigma, None), atol=1e-3)
    assert seen == [2.0, 0.5]


@pytest.mark.parametrize("name", GUIDING)
@pytest.mark.parametrize("sigmas", [(0.9, 0.2, 2.0), (0.9, 1.0, 2.0), (0.1, 0.2, 9.0)])
def test_samples_may_have_levels_of_their_own(name: str, sigmas: Sequence[float]) -> None:
    """Each gets what it gets alone; the guide is evaluated where it acts only."""
    x, labels, interval = noise(), torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), (0.3, 2.0)
    seen: list[Any] = []
    denoiser = made(name, normal(0.7), normal(2.0, seen), interval)
    found = denoiser(x, torch.tensor(sigmas, dtype=torch.float64), labels)
    assert [sigma for each in seen for sigma in each.tolist()] == [
        sigma for sigma in sigmas if 0.3 < sigma <= 2.0
    ]
    for k, sigma in enumerate(sigmas):
        alone = made(name, normal(0.7), normal(2.0), interval)(x[k : k + 1], sigma, labels[k : k + 1])
        assert torch.allclose(found[k : k + 1], alone, rtol=1e-12)


def test_weight_one_is_the_main_denoiser_but_where_it_is_said_to_act() -> None:
    """The spec and the table agree on which guidances weight 1 does not switch off."""
    x, main = noise(), normal(0.7)
    acting = []
    for name, row in GUIDANCES.items():
        seen: list[Any] = []
        found = row.make(main, normal(2.0, seen), 1.0, EVERYWHERE, LEVELS)(x, 0.9, None)
        assert torch.equal(found, main(x, 0.9, None)) != row.active(1.0)
        assert bool(seen) == row.active(1.0)
        acting += [name] if seen else []
    assert tuple(acting) == ACTS_AT_ONE


def checked(name: str, weight: float, options: dict[str, float]) -> None:
    Equation(guidance=guidance_part(name, options), weight=weight)


@pytest.mark.parametrize(
    ("name", "weight", "options", "named"),
    [
        ("cfgpp", 1.5, {}, "guidance.weight is 1.5; with guidance 'cfgpp' it must be 0 to 1"),
        ("none", 2.0, {}, "it must be 1$"),
        ("cfg", math.inf, {}, "a finite number"),
        ("cfg", 1.5, {"eta": 0.5}, "guidance 'cfg' has no option 'eta'; it has: none"),
        ("apg", 1.5, {"eta": 1.5}, "guidance.eta is 1.5; with guidance 'apg' it must be 0 to 1"),
        ("apg", 1.5, {"norm_threshold": -1.0}, "it must be 0 or more"),
        ("apg", 1.5, {"momentum": -1.5}, "it must be -1 to 1"),
        ("apg", 1.5, {"etta": 0.5}, "has no option 'etta'; it has: eta, norm_threshold, momentum"),
    ],
)
def test_values_out_of_range_are_named(
    name: str, weight: float, options: dict[str, float], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        checked(name, weight, options)


@pytest.mark.parametrize(
    ("name", "weight", "options"),
    [
        ("cfgpp", 1.0, {}),
        ("apg", 9.0, {"eta": 1.0, "momentum": -0.75, "norm_threshold": 15.0}),
        ("cfg", -1.0, {}),
    ],
)
def test_values_in_range_pass(name: str, weight: float, options: dict[str, float]) -> None:
    checked(name, weight, options)
    assert keeps_state(options) == ("momentum" in options)
