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
from erk_bench.sampling.guidance import GUIDANCES
from erk_bench.sampling.guided import EVERYWHERE, Denoiser, guided
from erk_bench.sampling.guided_bands import from_pyramid, laplacian_pyramid
from erk_bench.sampling.guided_parts import apg
from erk_bench.sampling.guided_weights import cfgpp, fitted_cfg
from erk_bench.sampling.loop import Run, integrate
from erk_bench.sampling.sample import sample_counted
from erk_bench.sampling.shared import sample_grid
from erk_bench.sampling.solvers import euler_step
from erk_bench.spec import ACTS_AT_ONE, ALONE_AT_ONE
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
    """The spec and the table agree on which guidances weight 1 does not switch off, and on what they need."""
    main, plain = normal(0.7), sample(normal(0.7), noise(), num_steps=4)
    acting, alone = [], []
    for name, row in GUIDANCES.items():
        seen: list[Any] = []
        guide = normal(2.0, seen)
        found = sample(main, noise(), num_steps=4, guide=guide, guidance_method=name, guidance=1.0)
        assert torch.equal(found, plain) == row.off_at_one
        assert bool(seen) == row.needs_guide(1.0)
        acting += [name] if not row.off_at_one else []
        alone += [name] if not row.off_at_one and not seen else []
    assert (tuple(acting), tuple(alone)) == (ACTS_AT_ONE, ALONE_AT_ONE)
    for name in alone:
        sample(main, noise(), num_steps=4, guidance_method=name)  # without a guide


# What each guidance is classifier-free guidance with; `form` and `space` aside, any weight is left open.
NEUTRAL: dict[str, dict[str, Any]] = {
    "apg": {"eta": 1.0},
    "power_law": {"alpha": 0.0},
    "fdg": {"coarse": [1.7]},
    "cfg_oec": {"tau": -1.0},
    "higs": {"strength": 0.0},
    "c2fg": {"rate": 0.0},
    "mambo_g": {"alpha": 0.0},
}


@pytest.mark.parametrize("solver", ["euler", "heun", "deis"])
@pytest.mark.parametrize("name", NEUTRAL)
def test_each_is_cfg_at_its_neutral_setting(name: str, solver: str) -> None:
    given: dict[str, Any] = {
        "guide": uneven(2.0), "guidance": 1.7, "solver": solver, "num_steps": 5, "dtype": torch.float64
    }  # fmt: skip
    cfg = sample(uneven(0.7), noise(), **given)
    found = sample(uneven(0.7), noise(), guidance_method=name, guidance_options=NEUTRAL[name], **given)
    assert torch.allclose(found, cfg, rtol=1e-9, atol=1e-11)
    acting = {"tau": 1.0} if name == "cfg_oec" else {}
    other = sample(uneven(0.7), noise(), guidance_method=name, guidance_options=acting, **given)
    assert not torch.allclose(other, cfg, atol=1e-4)


def test_guides_along_the_main_prediction_leave_nothing_to_take_apart() -> None:
    """Of two proportional predictions TCFG is classifier-free guidance, and CFG-Zero* the main one."""
    x, main = noise(), normal(0.7)

    def half(x: Tensor, sigma: float | Tensor, labels: Tensor | None) -> Tensor:
        return 0.5 * main(x, sigma, labels)

    cfg = guided(main, half, 0.6)(x, 0.9, None)
    assert torch.allclose(made("tcfg", main, half)(x, 0.9, None), cfg, rtol=1e-12)
    assert torch.allclose(made("cfg_zero_star", main, half)(x, 0.9, None), main(x, 0.9, None), rtol=1e-6)


def uneven(spread: float) -> Denoiser:
    """A denoiser that treats pixels and samples differently."""

    def denoiser(x: Tensor, sigma: float | Tensor, labels: Tensor | None) -> Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        places = torch.linspace(0.5, 2.0, x[0].numel(), dtype=x.dtype).reshape(x.shape[1:])
        return torch.tanh(x * places) * spread / (spread + level) + 0.1 * places

    return denoiser


@pytest.mark.parametrize("solver", ["euler", "heun", "deis"])
@pytest.mark.parametrize("name", GUIDING)
def test_no_sample_depends_on_the_others_of_its_batch(name: str, solver: str) -> None:
    options: dict[str, Any] = {
        "guide": uneven(2.0), "guidance_method": name, "guidance": 0.8, "solver": solver, "num_steps": 5,
        "dtype": torch.float64,
    }  # fmt: skip
    if name == "apg":
        options["guidance_options"] = {"momentum": -0.5, "norm_threshold": 0.5}
    together = sample(uneven(0.7), noise(), **options)
    alone = torch.cat([sample(uneven(0.7), noise()[k : k + 1], **options) for k in range(len(noise()))])
    assert torch.allclose(together, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"), [("apg", {"momentum": -0.5}), ("cfg_oec", {"tau": 1.0}), ("higs", {})]
)
def test_memory_is_told_and_refused_where_samples_step_apart(name: str, options: dict[str, float]) -> None:
    """What a row says of memory is so: a second evaluation at the same place gives something else."""
    row = GUIDANCES[name]
    assert row.memory and row.keeps_state(options)
    none = {row.memory.option: row.memory.none}
    assert not row.keeps_state(none)
    for given, same in ((options, False), (none, True)):
        denoiser = row.make(uneven(0.7), uneven(2.0), 1.7, EVERYWHERE, LEVELS, **given)
        x = noise()
        denoiser(x, 2.0, None)
        first, again = denoiser(0.5 * x, 0.9, None), denoiser(0.5 * x, 0.9, None)
        assert torch.equal(first, again) == same
    with pytest.raises(UserError, match=f"set {row.memory.option}={row.memory.none:g}, or choose a solver"):
        sample(
            gaussian, noise(), guide=gaussian, guidance=1.5, solver="heun_adaptive", guidance_method=name,
            guidance_options=options,
        )  # fmt: skip


def test_the_others_remember_nothing() -> None:
    for name, row in GUIDANCES.items():
        if row.memory is None and row.role:
            denoiser, x = made(name, uneven(0.7), uneven(2.0)), noise()
            first = denoiser(x, 0.9, None)
            denoiser(2 * x, 2.0, None)
            assert torch.equal(denoiser(x, 0.9, None), first), name


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_euler_with_fitted_cfg_is_the_published_step(weight: float) -> None:
    """x_next = D_m + r (x - D_m) + (r^w - r) (D_g - D_m), down to zero, where nothing is guided."""
    main, guiding = normal(0.7), normal(2.0)
    x = noise() * LEVELS[0]
    denoiser = fitted_cfg(main, guiding, weight, EVERYWHERE, LEVELS)
    found = integrate(denoiser, x, Run(euler_step, 0, LEVELS), None, no_correction)
    for sigma, sigma_next in pairwise([*LEVELS, 0.0]):
        m, g, r = main(x, sigma, None), guiding(x, sigma, None), sigma_next / sigma
        x = m + r * (x - m) + (r**weight - r) * (g - m)
    assert torch.allclose(found, x, rtol=1e-12, atol=1e-12)


def test_fitted_cfg_is_cfg_in_the_limit_of_small_steps() -> None:
    """r^w - r = (w - 1)(r - 1) + ...: the weight of a step tends to w."""
    x, main, guiding = noise(), normal(0.7), normal(2.0)
    found = fitted_cfg(main, guiding, 3.0, EVERYWHERE, [1.0, 1 - 1e-6])(x, 1.0, None)
    assert torch.allclose(found, guided(main, guiding, 3.0)(x, 1.0, None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", ["euler", "heun", "heun_adaptive"])
@pytest.mark.parametrize("space", ["denoised", "velocity", "slope"])
def test_zero_steps_move_as_a_zero_prediction_does(space: str, solver: str) -> None:
    """Without an evaluation: to x s_next / s, at constant x_t, or not at all; in both stages of Heun's."""
    given: dict[str, Any] = {
        "guide": uneven(2.0), "guidance": 1.7, "guidance_method": "cfg_zero_star", "sigmas": LEVELS,
        "dtype": torch.float64, "solver": solver,
    }  # fmt: skip
    states: list[Tensor] = []
    found = sample_counted(
        uneven(0.7), noise(), guidance_options={"space": space, "zero_steps": 2},
        trace=lambda point: states.append(point.x), **given,
    )  # fmt: skip
    start, second = LEVELS[0], LEVELS[2]
    by = {"denoised": second / start, "velocity": (1 + second) / (1 + start), "slope": 1.0}[space]
    assert torch.allclose(states[2], noise() * start * by, rtol=1e-3 if solver == "heun_adaptive" else 1e-12)
    if solver != "heun_adaptive":
        rest = sample_counted(
            uneven(0.7), states[2] / second, guidance_options={"space": space},
            **{**given, "sigmas": LEVELS[2:]},
        )  # fmt: skip
        assert torch.allclose(found.x, rest.x, rtol=1e-12)
        assert (found.nfe, found.nfe_guide) == (rest.nfe, rest.nfe_guide)


def test_cells_of_a_grid_know_their_step() -> None:
    """Branches of a grid take turns; each evaluation knows in which step it is."""
    cells = [(0.0, 0.0), (0.5, 0.0), (1.0, 0.5)]
    given: dict[str, Any] = {
        "guide": uneven(2.0), "guidance": 1.7, "guidance_method": "cfg_zero_star", "num_steps": 5,
        "guidance_options": {"zero_steps": 2}, "dtype": torch.float64,
    }  # fmt: skip
    together = sample_grid(uneven(0.7), noise(), cells=cells, branch_limit=2, **given)
    for cell, found in zip(cells, together.x, strict=True):
        alone = sample(uneven(0.7), noise(), w_stiff=cell[0], w_con=cell[1], **given)
        assert torch.allclose(found, alone, rtol=1e-10)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 12), (20, 12), (9, 16), (5, 31)])
@pytest.mark.parametrize("num_levels", [1, 2])
def test_a_pyramid_holds_its_image(height: int, width: int, num_levels: int) -> None:
    """And a constant image is in the coarsest level alone."""
    torch.manual_seed(height)
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    bands = laplacian_pyramid(x, num_levels)
    assert len(bands) == num_levels
    assert torch.allclose(from_pyramid(bands)[..., :height, :width], x, atol=1e-13)
    for band in laplacian_pyramid(torch.ones_like(x), num_levels)[:-1]:
        assert band.abs().max() < 1e-13


def test_images_too_small_for_the_bands_are_refused() -> None:
    with pytest.raises(UserError, match="images of 8 x 8 are too small for the 4 bands .* fewer values"):
        laplacian_pyramid(torch.zeros(1, 1, 8, 8), 4)
    laplacian_pyramid(torch.zeros(1, 1, 8, 8), 3)


def test_histories_high_pass_takes_the_mean_away() -> None:
    """With a cutoff far above, nothing of a constant difference is added; without a filter, all of it."""

    def flat(x: Tensor, sigma: float | Tensor, labels: Tensor | None) -> Tensor:
        return torch.full_like(x, 1.0 if sigma == 2.0 else 2.0)

    found = []
    for cutoff in (0.5, -1.0):
        denoiser = GUIDANCES["higs"].make(
            flat, flat, 1.0, EVERYWHERE, LEVELS, cutoff=cutoff, eta=1.0, strength=1.0, alpha=1.0, t_min=0.0
        )
        denoiser(noise(), 2.0, None)
        found.append(denoiser(noise(), 1.0, None))
    assert torch.allclose(found[0], torch.full_like(found[0], 2.0), atol=1e-9)
    assert torch.allclose(found[1], torch.full_like(found[1], 2.0 + 0.5**0.5), atol=1e-12)


def checked(name: str, weight: float, options: dict[str, Any]) -> None:
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
        ("apg", 1.5, {"etta": 0.5}, "has no option 'etta'; it has: eta, norm_threshold, momentum, form"),
        ("apg", 1.5, {"form": "diffuser"}, "did you mean 'diffusers'"),
        ("fitted_cfg", -0.5, {}, "with guidance 'fitted_cfg' it must be 0 or more"),
        ("power_law", 1.5, {"units": "noise"}, "Known: denoised, slope, score"),
        ("cfg_zero_star", 1.5, {"zero_steps": -1}, "it must be 0 to 10000"),
        ("cfg_oec", 1.5, {"tau": 2.0}, "it must be -1 to 1"),
        ("fdg", 1.5, {"coarse": 1.2}, "it must be a list of 0 to 5 numbers, each a finite number"),
        ("fdg", 1.5, {"coarse": ["1.2"]}, "it must be a list of 0 to 5 numbers"),
        ("higs", 1.5, {"cutoff": -2.0}, "it must be -1 or more"),
        ("mambo_g", 1.5, {"alpha": -1.0}, "it must be 0 or more"),
    ],
)
def test_values_out_of_range_are_named(name: str, weight: float, options: dict[str, Any], named: str) -> None:
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
    assert GUIDANCES[name].keeps_state(options) == ("momentum" in options)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("fdg", {"coarse": [1.0, 2.0], "parallel": [1.0]}, r"parallel has 1 values; .* there are 3 bands"),
        ("higs", {"t_min": 0.9, "t_max": 0.5}, "need t_min < t_max"),
    ],
)
def test_options_that_do_not_fit_together(name: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        sample(gaussian, noise(), guide=gaussian, guidance_method=name, guidance_options=options)
