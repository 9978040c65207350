"""Corrections: ERK-Guid and its exact factor."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

import erk_bench.sampling.corrections as corrections_module
from erk_bench import sample
from erk_bench.base.errors import UserError
from erk_bench.sampling.corrections import (
    CORRECTIONS,
    alpha,
    erk_alpha,
    erk_guid,
    gaussian_factor,
)
from erk_bench.sampling.loop import Run, integrate
from erk_bench.sampling.shared import Strength, integrate_grid
from erk_bench.sampling.solvers import heun_step
from erk_bench.sampling.steps import Node, Step
from tests.conftest import golden, golden_net
from tests.sampling.test_solvers import gaussian, noise

ERK = [name for name in CORRECTIONS if name != "none"]
NEED_EULER = [name for name, row in CORRECTIONS.items() if row.needs_euler]


def random_step(span: float = 0.3) -> Step:
    draw = torch.Generator().manual_seed(1)
    x, x2, slope, slope2, x_next = torch.randn(5, 3, 2, 4, 4, generator=draw, dtype=torch.float64)
    ahead = Node(x - span * slope, x2, 1.0 - abs(span))
    return Step(x_next, Node(x, slope, 1.0), Node(x2, slope2, 1.0), span, ahead)


def test_zero_strength_is_bitwise_heun() -> None:
    """On a network in float32, with guidance, and with the estimates evaluated for a trace."""
    data = golden("erk_guid_sampler")
    arguments = (golden_net("a"), data["a.noise"], data["a.labels"])
    options = {"num_steps": 6, "guide": golden_net("b"), "guidance": 1.4}
    plain = sample(*arguments, **options)
    assert torch.equal(plain, sample(*arguments, w_stiff=0.0, w_con=0.3, **options))
    points: list[object] = []
    assert torch.equal(plain, sample(*arguments, w_stiff=0.0, trace=points.append, **options))
    assert len(points) == 6


@pytest.mark.parametrize("name", ERK)
def test_zero_strength_leaves_the_step_alone(name: str) -> None:
    step = random_step()
    assert CORRECTIONS[name].make(0.0, 0.0)(step).x_next is step.x_next


@pytest.mark.parametrize("name", ERK)
def test_a_closed_gate_changes_nothing(name: str) -> None:
    step = random_step()
    assert torch.equal(CORRECTIONS[name].make(1.0, 1e9)(step).x_next, step.x_next)


@pytest.mark.parametrize("name", ERK)
def test_the_gate_is_strict(name: str) -> None:
    """Stiffness equal to w_con does not open the gate."""
    stiffness = CORRECTIONS[name].make(1.0, 0.0)(random_step()).stiffness
    assert stiffness is not None
    gate = CORRECTIONS[name].make(1.0, stiffness[1].item())(random_step()).gate
    assert gate is not None and not gate[1]
    assert gate[0] == (stiffness[0] > stiffness[1])


@pytest.mark.parametrize("span", [0.3, -0.7])
def test_correction_follows_the_formula(span: float) -> None:
    """x_next - h z^2 <v, f> v with z = w h rho, written out (METHOD 3); the sign of the span is kept."""
    step, w_stiff = random_step(span), 0.9
    assert step.partner is not None
    expected = []
    for k in range(3):
        dx, df = step.node.x[k] - step.partner.x[k], step.node.slope[k] - step.partner.slope[k]
        rho = df.norm() / (dx.norm() + 1e-8)
        v = df / (df.norm() + 1e-8)
        z = w_stiff * abs(span) * rho
        expected.append(step.x_next[k] - span * z**2 * (v * step.node.slope[k]).sum() * v)
    corrected = erk_guid(w_stiff, 0.0)(step)
    # The step size is rounded to float32 on the way, as in the published program.
    assert torch.allclose(corrected.x_next, torch.stack(expected), rtol=1e-6, atol=1e-7)
    assert not torch.allclose(corrected.x_next, step.x_next, atol=1e-3)


def test_differences_norms_and_products_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two differences, two norms, one inner product a correction."""
    calls: list[str] = []
    norm = torch.linalg.vector_norm
    monkeypatch.setattr(
        corrections_module.torch.linalg,
        "vector_norm",
        lambda *a, **k: (calls.append("norm"), norm(*a, **k))[1],
    )

    class Counting(Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            name = getattr(function, "__name__", "")
            if name in ("sub", "sum") and args[0].ndim == 4:
                calls.append(name)
            return super().__torch_function__(function, types, args, kwargs or {})

    step = random_step()
    assert step.partner is not None

    def counting(node: Node) -> Node:
        return Node(node.x.as_subclass(Counting), node.slope.as_subclass(Counting), node.sigma)

    erk_guid(1.0, 0.0)(step._replace(node=counting(step.node), partner=counting(step.partner)))
    assert sorted(calls) == ["norm", "norm", "sub", "sub", "sum"]


def test_not_applied_at_the_first_and_last_step() -> None:
    points = []
    sample(gaussian, noise(), num_steps=5, w_stiff=1.0, trace=points.append)
    assert [point.stiffness is not None for point in points] == [False, True, True, True, False]
    assert points[-1].sigma_next == 0


def exact_alpha(z: float) -> Fraction:
    """The factor's power series in rational numbers, for z up to 30."""
    return sum(((-Fraction(z)) ** k / math.factorial(k + 1) for k in range(2, 160)), Fraction(0))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_alpha_is_exact_for_small_and_large_z(dtype: torch.dtype, tolerance: float) -> None:
    """Also on both sides of where its series begins, and far below, where the formula cancels to nothing."""
    z = torch.cat([torch.logspace(-6, math.log10(30), 60), torch.tensor([0.4999, 0.5, 0.5001])]).to(dtype)
    for value, found in zip(z.tolist(), alpha(z).tolist(), strict=True):
        expected = exact_alpha(value)
        assert abs(Fraction(found) / expected - 1) < tolerance, value
    assert alpha(torch.zeros(1, dtype=dtype)).item() == 0


@pytest.mark.parametrize("stiffness", [0.2, 1.0, 3.0, 20.0])
def test_erk_alpha_makes_heun_exact_on_a_linear_equation(stiffness: float) -> None:
    """dx/dsigma = lambda x: the corrected step is x e^(-h lambda), as the theory says."""
    x, h = noise(), 0.25

    def slope(at: Tensor, sigma: float | Tensor, rows: Tensor | None = None) -> Tensor:
        return stiffness * at

    past = heun_step(slope, x, 1.0 + h, 1.0, [])
    step = heun_step(slope, past.x_next, 1.0, 1.0 - h, [past])
    expected = past.x_next * math.exp(-h * stiffness)
    assert torch.allclose(erk_alpha(1.0, 0.0)(step).x_next, expected, rtol=1e-5)
    assert not torch.allclose(step.x_next, expected, rtol=1e-5)
    assert not torch.allclose(erk_guid(1.0, 0.0)(step).x_next, expected, rtol=1e-5)


def test_weak_erk_alpha_is_erk_guid_with_a_sixth_of_its_square() -> None:
    step, w_stiff = random_step(), 1e-3
    found = erk_alpha(w_stiff, 0.0)(step).x_next - step.x_next
    expected = erk_guid(w_stiff / math.sqrt(6), 0.0)(step).x_next - step.x_next
    assert expected.abs().max() > 0
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-14)
    strong = erk_alpha(2.0, 0.0)(step).x_next - step.x_next
    assert not torch.allclose(strong, erk_guid(2.0 / math.sqrt(6), 0.0)(step).x_next - step.x_next, rtol=0.1)


def test_a_grid_of_erk_alpha_shares_trajectories() -> None:
    """Every cell equals its own run bit for bit."""

    def two_widths(x: Tensor, sigma: float | Tensor, labels: Tensor | None) -> Tensor:
        return torch.where(x > 0, x / (1 + sigma**2), x * 0.01 / (0.01 + sigma**2))

    run = Run(heun_step, 1, [9.0, 3.0, 1.0, 0.3, 0.1])
    x = noise() * 9.0
    cells = [Strength(w_stiff, w_con) for w_stiff in (0.0, 0.7, 1.5) for w_con in (0.0, 0.4, 1.0)]
    states, index = integrate_grid(two_widths, x, run, None, cells, 256, erk_alpha)
    for cell, rows in zip(cells, index, strict=True):
        assert torch.equal(states[rows], integrate(two_widths, x, run, None, erk_alpha(*cell))), cell
    assert len(states) > 3 * len(x)


# Corrections beyond the paper


@pytest.mark.parametrize("spread", [0.01, 0.5, 3.0])
@pytest.mark.parametrize(("sigma", "sigma_next"), [(80.0, 40.0), (1.0, 0.9), (0.01, 0.002)])
def test_the_gaussian_factor_makes_heun_exact(spread: float, sigma: float, sigma_next: float) -> None:
    """Data of one standard deviation, whose ODE has a closed form; in float64."""

    def slope(x: float, level: float) -> float:
        return x * level / (spread**2 + level**2)

    h = sigma - sigma_next
    f = slope(1.0, sigma)
    heun = 1 - h / 2 * (f + slope(1 - h * f, sigma_next))
    exact = math.hypot(spread, sigma_next) / math.hypot(spread, sigma)
    eigenvalue = torch.tensor([sigma / (spread**2 + sigma**2)], dtype=torch.float64)
    amount = gaussian_factor(eigenvalue, sigma, sigma_next).item()
    assert heun - h * amount * f == pytest.approx(exact, rel=1e-14, abs=1e-6 * abs(heun - exact))


def test_the_gaussian_factor_of_a_small_step_is_its_leading_term() -> None:
    """z (eta - z) / 2, without cancellation at the smallest, and for an eigenvalue of zero."""
    sigma = 2.0
    for h in (1e-3, 1e-4, 2e-5, 5e-6, 1e-8):
        eigenvalue = torch.tensor([0.3], dtype=torch.float64)
        z, eta = 0.3 * h, h / sigma
        found = gaussian_factor(eigenvalue, sigma, sigma - h).item()
        assert found == pytest.approx(z * (eta - z) / 2, rel=max(2 * h, 1e-6))
    assert gaussian_factor(torch.zeros(1), 2.0, 1.0).item() == 0


def test_gaussian_data_need_only_the_first_step_uncorrected() -> None:
    """erk_gauss leaves the error of the first step, where there is no pair, and no other."""
    options = {"num_steps": 6, "dtype": torch.float64, "denoise_to_zero": False, "sigma_max": 10.0}

    def line(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return x * 0.49 / (0.49 + sigma**2)  # one direction of one width: the estimate is exact but for eta

    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    points: list[object] = []
    sample(line, x, w_stiff=1.0, w_con=0.0, correction="erk_gauss", trace=points.append, **options)
    for point in points[1:]:
        spread2 = 0.49
        rate = math.sqrt((spread2 + point.sigma_next**2) / (spread2 + point.sigma**2))
        assert point.x_next.item() == pytest.approx(point.x.item() * rate, rel=1e-6)
    first = points[0]
    rate = math.sqrt((0.49 + first.sigma_next**2) / (0.49 + first.sigma**2))
    assert first.x_next.item() != pytest.approx(first.x.item() * rate, rel=1e-3)


def test_erk_dx_and_erk_proj_follow_their_formulas() -> None:
    step, strength = random_step(), 0.8
    assert step.ahead is not None and step.partner is not None
    difference = step.x_next - step.ahead.x
    found = CORRECTIONS["erk_dx"].make(strength, 0.0)(step).x_next
    assert torch.allclose(found, step.x_next - strength * 0.3 / 1.0 / 2 * difference, rtol=1e-6)
    found = CORRECTIONS["erk_proj"].make(strength, 0.0)(step).x_next
    for k in range(3):
        df = step.node.slope[k] - step.partner.slope[k]
        v = df / df.norm()
        expected = step.x_next[k] - strength * (difference[k] * v).sum() * v
        assert torch.allclose(found[k], expected, rtol=1e-6)


@pytest.mark.parametrize("name", NEED_EULER)
def test_a_solver_without_eulers_step_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="which solver 'deis' does not contain; use solver=heun"):
        sample(gaussian, noise(), num_steps=4, solver="deis", w_stiff=1.0, correction=name)
    with pytest.raises(UserError, match="use solver=heun"):
        CORRECTIONS[name].make(1.0, 0.0)(random_step()._replace(ahead=None))


def test_erk_dx_has_a_third_of_heuns_largest_error() -> None:
    """Over all widths of Gaussian data, and no other share of the difference has less (docs/theory.md)."""
    sigma, eta = 1.0, 0.02
    h = eta * sigma
    spreads = torch.logspace(-3, 3, 2001, dtype=torch.float64)
    first = sigma / (spreads**2 + sigma**2)
    second = (sigma - h) / (spreads**2 + (sigma - h) ** 2)
    euler = 1 - h * first
    heun = 1 - h / 2 * (first + second * euler)
    exact = ((spreads**2 + (sigma - h) ** 2) / (spreads**2 + sigma**2)).sqrt()

    def largest(share: float) -> float:
        return (heun - share * (heun - euler) - exact).abs().max().item() / eta**3

    assert largest(0.0) == pytest.approx(2 / 27, rel=0.05)
    assert largest(eta / 2) == pytest.approx(1 / (24 * math.sqrt(3)), rel=0.05)
    assert largest(eta / 2) < min(largest(eta * other) for other in (0.3, 0.4, 0.6, 0.7))
