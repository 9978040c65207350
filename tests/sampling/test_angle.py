"""The solver and the noise levels of the angle theta = arctan(sigma / sigma_data)."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from erk_bench import sample
from erk_bench.base.errors import UserError
from erk_bench.sampling.angle import angle_step
from erk_bench.sampling.schedules import angle
from erk_bench.sampling.shared import sample_grid
from erk_bench.sampling.steps import Node, Step
from tests.sampling.test_solvers import noise

MEAN = 0.8


def gaussian(x: Tensor, sigma: Tensor, width: float, mean: float = 0.0) -> Tensor:
    """Denoiser of Gaussian data."""
    level = sigma.reshape(-1, 1, 1, 1)
    return mean + (x - mean) * width**2 / (width**2 + level**2)


def exact(x: Tensor, sigma: float, sigma_next: float, width: float, mean: float = 0.0) -> Tensor:
    return mean + (x - mean) * math.hypot(width, sigma_next) / math.hypot(width, sigma)


@pytest.mark.parametrize("width", [0.5, 1.7])
@pytest.mark.parametrize("to_zero", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"max_order": 4, "corrector": True}, {"basis": "trigonometric"}], ids=str
)
def test_exact_for_gaussian_data_of_its_width(
    width: float, to_zero: bool, options: dict[str, object]
) -> None:
    """However few the steps; the step to zero is the solver's own, as Euler's would not be exact."""
    x = sample(
        lambda x, sigma, labels: gaussian(x, sigma, width), noise(), solver="angle", sigmas=[80.0, 0.9],
        denoise_to_zero=to_zero, sigma_data=width, dtype=torch.float64, **options,
    )  # fmt: skip
    assert torch.allclose(x, exact(noise() * 80, 80, 0.0 if to_zero else 0.9, width), rtol=1e-12, atol=1e-12)


def test_sine_and_cosine_are_exact_for_gaussian_data_of_any_mean() -> None:
    """The start too: the network's output is the sine of the angle times the mean."""
    options = {"solver": "angle", "num_steps": 3, "dtype": torch.float64}
    found, plain = (
        sample(lambda x, s, labels: gaussian(x, s, 0.5, MEAN), noise(), basis=basis, **options)
        for basis in ("trigonometric", "polynomial")
    )
    wanted = exact(noise() * 80, 80, 0.002, 0.5, MEAN)
    assert torch.allclose(found, wanted, rtol=1e-11, atol=1e-11)
    assert (plain - wanted).abs().max() > 0.01


@pytest.mark.parametrize("width", [0.0, 0.2, 0.5, 3.0])
def test_the_equation_of_a_gaussian_direction(width: float) -> None:
    """y = cos(theta) m / s_d + Y with Y'' + Y = k / Y^3, and F = -y' = sin(theta) D / s_d - cos(theta) f."""
    sd, k = 0.5, width**2 / 0.5**2
    theta = torch.linspace(0.3, 1.5, 7, dtype=torch.float64, requires_grad=True)

    def of_theta(values: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(values.sum(), theta, create_graph=True)
        return gradient

    part = (k * theta.cos() ** 2 + theta.sin() ** 2).sqrt()
    assert torch.allclose(of_theta(of_theta(part)) + part, k / part**3, atol=1e-12)
    y, sigma = theta.cos() * MEAN / sd + part, sd * theta.tan()
    x = y * (sigma**2 + sd**2).sqrt()
    denoised = gaussian(x.reshape(-1, 1, 1, 1), sigma, width, MEAN).flatten()
    slope = (x - denoised) / sigma
    output = theta.sin() * denoised / sd - theta.cos() * slope
    assert torch.allclose(output, -of_theta(y), atol=1e-12)


@pytest.mark.parametrize("sigma_next", [0.4, 0.0])
def test_sine_and_cosine_are_exact_on_a_straight_line(sigma_next: float) -> None:
    """Data in a point, with an exact past: the line that Euler's method and DDIM follow."""

    def node(sigma: float) -> Node:
        return Node(MEAN + sigma * noise(), noise(), sigma)

    past = [Step(node(1.5).x, node(3.0), None, 1.5, None)]
    step = angle_step(lambda x, sigma: noise(), node(1.5).x, 1.5, sigma_next, past, basis="trigonometric")
    assert torch.allclose(step.x_next, node(sigma_next).x, rtol=1e-12, atol=1e-12)


def test_second_order_is_the_textbooks_formula() -> None:
    """Adams-Bashforth of two unequal steps on the network's output, in float64, guidance and all."""

    def net(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return torch.tanh(x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2))

    def guide(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return 0.8 * net(x, sigma, labels)

    levels, sd = [80.0, 2.0, 0.7, 0.1], 0.4
    theta = [math.atan(level / sd) for level in levels]
    y = noise() * 80 / math.hypot(80, sd)
    last = None
    for number, (sigma, now, after) in enumerate(zip(levels, theta, theta[1:], strict=False)):
        x = y * math.hypot(sigma, sd)
        level = torch.tensor([sigma], dtype=torch.float64)
        denoised = 1.5 * net(x, level, None) - 0.5 * guide(x, level, None)
        output = (denoised - sd**2 / (sigma**2 + sd**2) * x) * math.hypot(sigma, sd) / (sigma * sd)
        h = after - now
        tilt = h / (now - theta[number - 1]) / 2 if last is not None else 0
        y = y - h * ((1 + tilt) * output - tilt * (0 if last is None else last))
        last = output
    found = sample(
        net, noise(), solver="angle", sigmas=levels, sigma_data=sd, guide=guide, guidance=1.5,
        dtype=torch.float64,
    )  # fmt: skip
    assert torch.allclose(found, y * math.hypot(levels[-1], sd), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("basis", ["polynomial", "trigonometric"])
@pytest.mark.parametrize(
    ("max_order", "corrector", "order"),
    [(1, False, 1), (1, True, 2), (2, False, 2), (2, True, 3), (3, False, 2), (3, True, 3), (4, True, 3)],
)
def test_the_corrector_adds_an_order_to_a_run(
    basis: str, max_order: int, corrector: bool, order: int
) -> None:
    """It mends the first step too, which alone is of order 1 and limits a run to order 2."""
    errors = []
    for num_steps in (81, 161, 321):
        x = sample(
            lambda x, sigma, labels: gaussian(x, sigma, 0.7), noise(), solver="angle", num_steps=num_steps,
            sigma_min=0.1, sigma_max=4.0, dtype=torch.float64, max_order=max_order, basis=basis,
            corrector=corrector,
        )  # fmt: skip
        errors.append((x - exact(noise() * 4, 4.0, 0.1, 0.7)).abs().max().item())
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([order, order], abs=0.15)


def test_the_pair_is_the_last_evaluation_carried_along_the_angle() -> None:
    """At this step's noise level, with the same scaled state and the same output of the network."""
    last = Node(noise() * 3, torch.tanh(noise()), 2.0)
    step = angle_step(
        lambda x, sigma: 0.3 * x, noise(), 0.8, 0.2, [Step(noise(), last, None, 1.2, None)], sigma_data=0.6
    )
    assert step.partner is not None and step.partner.sigma == 0.8

    def scaled(node: Node) -> tuple[Tensor, Tensor]:
        length, sd = math.hypot(node.sigma, 0.6), 0.6
        skip, out = sd**2 / length**2, node.sigma * sd / length
        return node.x / length, (node.denoised - skip * node.x) / out

    for found, wanted in zip(scaled(step.partner), scaled(last), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)
    assert angle_step(lambda x, sigma: 0.3 * x, noise(), 0.8, 0.2, []).partner is None


def test_cells_of_a_grid_equal_their_own_runs() -> None:
    """Corrected steps too, whose past reaches back over branches."""

    def net(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return torch.where(x > 0, gaussian(x, sigma, 1.0), gaussian(x, sigma, 0.1))

    cells = [(0.0, 0.5), (0.5, 0.0), (0.5, 0.4), (1.0, 0.4)]
    options = {"solver": "angle", "num_steps": 7, "max_order": 3, "corrector": True, "dtype": torch.float64}
    found = sample_grid(net, noise(), cells=cells, **options)
    for (w_stiff, w_con), x in zip(cells, found.x, strict=True):
        assert torch.equal(x, sample(net, noise(), w_stiff=w_stiff, w_con=w_con, **options))
    assert len(found.states) > len(noise())


@pytest.mark.parametrize(("rho", "sigma_data"), [(1.0, 0.5), (1.5, 0.5), (1.0, 2.0)])
def test_levels_are_uniform_in_the_angle(rho: float, sigma_data: float) -> None:
    levels = angle(9, 0.01, 50.0, rho, torch.float64, sigma_data=sigma_data)
    steps = [a - b for a, b in pairwise(((levels / sigma_data).atan() ** (1 / rho)).tolist())]
    assert steps == pytest.approx([steps[0]] * 8, rel=1e-9)


def test_levels_for_other_solvers() -> None:
    """A schedule like any other, with its own exponent where none is given."""
    net = lambda x, sigma, labels: gaussian(x, sigma, 0.7)  # noqa: E731
    options = {"solver": "deis", "num_steps": 6, "dtype": torch.float64}
    found = sample(net, noise(), schedule="angle", **options)
    levels = angle(6, 0.002, 80.0, 1.0, torch.float64).tolist()
    assert torch.equal(found, sample(net, noise(), sigmas=levels, **options))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"solver": "angle", "sigma_data": 0.0}, "solver.sigma_data is 0.0; with solver 'angle' it must be"),
        ({"solver": "angle", "max_order": 5}, "Known: 1, 2, 3, 4"),
        ({"solver": "angle", "basis": "cosine"}, "unknown solver.basis of 'angle' 'cosine'"),
    ],
)
def test_bad_options(options: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        sample(lambda x, sigma, labels: x, noise(), **options)
