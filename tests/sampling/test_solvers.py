"""Every solver of the table: order, evaluation count, independence of samples."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from erk_bench import sample
from erk_bench.base.errors import UserError
from erk_bench.sampling.equation import solver_part
from erk_bench.sampling.loop import CountedDenoiser
from erk_bench.sampling.sample import sample_counted
from erk_bench.sampling.schedules import SCHEDULES, polynomial, sigmas
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.sampling.steps import Node, Step

SPREAD = 0.7  # standard deviation of the Gaussian data


def gaussian(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    """Denoiser of zero-mean Gaussian data; its ODE has a closed form."""
    return x * SPREAD**2 / (SPREAD**2 + sigma.reshape(-1, 1, 1, 1) ** 2)


def exact_at(x: Tensor, sigma_max: float, sigma: float) -> Tensor:
    """The point at sigma of the trajectory through x at sigma_max."""
    return x * math.hypot(SPREAD, sigma) / math.hypot(SPREAD, sigma_max)


def noise(batch: int = 3) -> Tensor:
    return torch.randn(batch, 2, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Case(NamedTuple):
    """A solver with options, and the order of its steps."""

    name: str
    options: dict[str, Any]
    order: int

    def __str__(self) -> str:
        return "-".join([self.name, *map(str, self.options.values())])


CASES = [
    *(Case(name, dict(row.plain), row.order) for name, row in SOLVERS.items()),
    Case("dpm2", {"r": 0.3}, 2),
    *(Case("deis", {"mode": mode, "max_order": k}, k) for mode in ("tab_exact", "rhoab") for k in (2, 3, 4)),
    *(Case("ipndm_v", {"max_order": k, "exact": True}, k) for k in (2, 3, 4)),
    Case("ipndm_v", {"max_order": 2}, 2),
    *(Case("dpmpp", {"max_order": k, "thresholding": False}, k) for k in (1, 2)),
    Case("dpmpp", {"predict": "noise", "thresholding": False}, 2),
    *(Case("unipc", {"max_order": k, "thresholding": False}, k + 1) for k in (1, 2)),
    Case("unipc", {"variant": "bh1", "thresholding": False}, 4),
    Case("unipc", {"predict": "noise", "thresholding": False}, 4),
    Case("stork", {"stages": 9}, 2),
    *(Case("stork", {"form": "flow", "degree": k}, 2) for k in (1, 2, 3)),
    Case("stork", {"degree": 1}, 2),
    Case("rx", {"base": "heun"}, 2),
    *(Case("sdm", {"blend": blend}, 1) for blend in ("linear", "cosine")),
    *(Case("angle", {"max_order": k}, k) for k in (1, 3, 4)),
    *(Case("angle", {"max_order": k, "basis": "trigonometric"}, k) for k in (1, 2, 3, 4)),
]


# Several widths, since the leading term of an error may happen to vanish for one.
WIDTHS = torch.tensor([0.3, 0.7, 1.5, 3.0], dtype=torch.float64).reshape(1, 4, 1, 1)


def exact(sigma: float) -> Node:
    """A point of an exact trajectory, and the slope there."""
    x = (WIDTHS**2 + sigma**2).sqrt()
    return Node(x, slope_of(x, sigma), sigma)


def slope_of(x: Tensor, sigma: float | Tensor, rows: Tensor | None = None) -> Tensor:
    level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
    return x * level / (WIDTHS**2 + level**2)


# The leading term of the midpoint method's error vanishes where data are Gaussian, of whatever width.
BETTER_HERE = {"midpoint": 1}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_order_of_a_step(case: Case) -> None:
    """With an exact past at unequal steps, the error of a step falls as h^(order + 1)."""
    row, errors = SOLVERS[case.name], []
    for h in (0.04, 0.02, 0.01):
        levels = [2 + k * h for k in (8, 5.8, 2.6, 0, -2.4, -4, -6, -8)]
        past = [Step(exact(b).x, exact(a), None, a - b, None) for a, b in pairwise(levels[:4])]
        step = solver_part(case.name, case.options).bound(tuple(levels))
        made = step(slope_of, exact(2.0).x, 2.0, levels[4], past[-row.history :] if row.history else [])
        errors.append((made.x_next - exact(levels[4]).x).abs().max().item())
    orders = [math.log2(a / b) - 1 for a, b in pairwise(errors)]
    order = case.order + BETTER_HERE.get(case.name, 0)
    assert order - 0.3 < orders[-1] < order + 0.5, orders


FIXED = [name for name, row in SOLVERS.items() if not row.adaptive]


@pytest.mark.parametrize("name", FIXED)
def test_order_of_a_run(name: str) -> None:
    """Halving smoothly varying steps divides the error of a whole run by at least 2^order."""
    row, errors = SOLVERS[name], []
    order = row.expected_order + BETTER_HERE.get(name, 0)
    for num_steps in (161, 321, 641):
        x = sample(
            gaussian, noise(), solver=name, num_steps=num_steps, sigma_min=0.1, sigma_max=4.0,
            schedule="polynomial", denoise_to_zero=False, dtype=torch.float64, **row.plain,
        )  # fmt: skip
        errors.append((x - exact_at(noise() * 4.0, 4.0, 0.1)).abs().max().item())
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(found > order - 0.3 for found in orders), orders
    if not row.history or row.evaluations > 1:  # one-step methods
        assert all(found < order + 0.2 for found in orders), orders


def test_adaptive_steps_follow_the_tolerance() -> None:
    """A quarter of the tolerance halves the steps, and so quarters the error; it tells what it cost."""
    errors, costs = [], []
    for tolerance in (1e-3, 1e-3 / 16):
        made = sample_counted(
            gaussian, noise(), solver="heun_adaptive", num_steps=2, sigma_min=0.1, sigma_max=4.0,
            denoise_to_zero=False, dtype=torch.float64, tolerance=tolerance,
        )  # fmt: skip
        errors.append((made.x - exact_at(noise() * 4.0, 4.0, 0.1)).abs().max().item())
        costs.append(made.nfe)
    assert errors[1] < errors[0] / 8
    assert 2.5 < costs[1] / costs[0] < 5


def test_adaptive_evaluations_are_counted_by_image() -> None:
    """The mean over samples that stop at different times equals that of the samples alone."""
    options = {"solver": "heun_adaptive", "num_steps": 3, "dtype": torch.float64}
    spread = noise() * torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    alone = [sample_counted(gaussian, one, **options).nfe for one in spread.split(1)]
    assert len(set(alone)) > 1
    assert sample_counted(gaussian, spread, **options).nfe == pytest.approx(sum(alone) / 3)


@pytest.mark.slow
def test_adaptive_gives_up_on_what_cannot_be_reached() -> None:
    with pytest.raises(UserError, match="solver.tolerance 1e-20 is too small"):
        sample(gaussian, noise(), solver="heun_adaptive", num_steps=2, tolerance=1e-20)


@pytest.mark.parametrize("name", FIXED)
def test_evaluation_count(name: str) -> None:
    """Of 12 noise levels: without the step to zero, with it, without it after an analytical first step."""
    steps = 11 * SOLVERS[name].evaluations
    for expected, to_zero, afs in ((steps, False, False), (steps + 1, True, False), (steps - 1, False, True)):
        counted = CountedDenoiser(gaussian)
        options = {"num_steps": 12, "denoise_to_zero": to_zero, "afs": afs}
        result = sample_counted(counted, noise(), solver=name, **options)
        assert result.nfe == counted.num_calls == expected
        assert result.nfe_guide == 0


@pytest.mark.parametrize("name", SOLVERS)
def test_published_noise_levels_are_the_default(name: str) -> None:
    row = SOLVERS[name]
    assert 2 <= row.min_steps <= 4
    named = {"schedule": row.schedule, "rho": row.rho, "denoise_to_zero": row.to_zero}
    plain = sample(gaussian, noise(), solver=name, num_steps=6)
    assert torch.equal(plain, sample(gaussian, noise(), solver=name, num_steps=6, **named))


def test_analytical_first_step_is_nearly_right_for_unit_variance() -> None:
    unit = CountedDenoiser(lambda x, sigma, labels: x / (1 + sigma**2))
    options = {"solver": "heun", "num_steps": 5, "dtype": torch.float64}
    full, short = (sample_counted(unit, noise(), **options, afs=afs) for afs in (False, True))
    assert torch.allclose(full.x, short.x, rtol=1e-3) and short.nfe == full.nfe - 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"solver": "deis", "max_order": 5}, r"unknown solver.max_order of 'deis' '5'.*Known: 2, 3, 4"),
        ({"solver": "deis", "max_order": True}, "solver.max_order"),
        ({"solver": "ipndm", "max_order": 1}, "Known: 2, 3, 4"),
        ({"solver": "dpm2", "r": 1.0}, "solver.r is 1.0; with solver 'dpm2' it must be between 0 and 1"),
        ({"solver": "dpm2", "r": "half"}, "solver.r is half"),
        ({"solver": "unipc", "variant": "bh3"}, "did you mean 'bh"),
        ({"solver": "stork", "stages": 2}, "solver.stages is 2; with solver 'stork' it must be 3 to 1000"),
        ({"solver": "dpmpp", "thresholding": 1}, "Known: True, False"),
        ({"solver": "dpm3"}, "did you mean 'dpm2'"),
        (
            {"solver": "ipndm", "w_stiff": 0.5},
            "'ipndm' has no embedded pair.*: heun, dpm2, deis",
        ),
        ({"schedule": "logsnrr"}, "did you mean 'logsnr'"),
        ({"sigmas": [1.0, 2.0]}, "the noise levels are 1, 2; they must"),
        ({"sigmas": [1.0]}, "the noise levels are 1; they must"),
        ({"sigmas": [math.inf, 1.0]}, "the noise levels are inf, 1"),
        ({"sigmas": [2.0, math.nan]}, "the noise levels are 2, nan"),
        ({"schedule": "polynomial", "rho": 0.1}, "rho is 0.1; it must be 0.5 to 100"),
    ],
)
def test_bad_solver_options(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        sample(gaussian, noise(), **options)


def test_an_unknown_option_is_answered_with_those_of_the_solver() -> None:
    with pytest.raises(UserError, match=r"max_ordr.*did you mean 'max_order'"):
        sample(gaussian, noise(), solver="deis", max_ordr=3)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("w_stiff", [0.0, 0.8])
def test_samples_of_a_batch_are_independent(name: str, w_stiff: float) -> None:
    """A sample alone equals the same sample in a batch, bitwise in float64."""
    if w_stiff and not SOLVERS[name].paired:
        with pytest.raises(UserError, match="no embedded pair"):
            sample(gaussian, noise(), solver=name, w_stiff=w_stiff)
        return
    options = {"solver": name, "num_steps": 9, "w_stiff": w_stiff, "dtype": torch.float64}
    together = sample(gaussian, noise(), **options)
    alone = torch.cat([sample(gaussian, one, **options) for one in noise().split(1)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_ends_and_order(name: str) -> None:
    levels = sigmas(SCHEDULES[name].levels, 18, 0.002, 80.0, 7.0, torch.float64)
    assert len(levels) == 18
    if not SCHEDULES[name].own_ends:
        assert levels[0] == pytest.approx(80.0, rel=1e-12)
        assert levels[-1] == pytest.approx(0.002, rel=1e-9)
    assert all(a > b for a, b in pairwise(levels))


def test_polynomial_is_computed_in_the_state_dtype() -> None:
    """In float32 the first sigma is 79.99998, as in the published programs."""
    assert sigmas(polynomial, 8, 0.002, 80.0, 7.0, torch.float32)[0] == pytest.approx(79.99998, abs=5e-6)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((1, 0.002, 80.0, 7.0), "num_steps is 1"),
        ((8, 0.0, 80.0, 7.0), "sigma_min 0.0"),
        ((8, 2.0, 1.0, 7.0), "sigma_max 1.0"),
        ((8, 0.002, 80.0, -1.0), "rho is -1.0"),
    ],
)
def test_bad_schedules(arguments: tuple[int, float, float, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        sigmas(polynomial, *arguments, torch.float64)
