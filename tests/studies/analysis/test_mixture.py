"""The 2D mixture against numbers printed by the published program, and against autograd."""

from __future__ import annotations

import pytest
import torch

from erk_bench import sample
from erk_bench.base.errors import UserError
from erk_bench.studies.analysis.mixture import CLASSES, tree
from tests.conftest import golden

LEVELS = ("0.05", "0.2", "1", "5")


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("level", LEVELS)
def test_density_and_score(name: str, level: str) -> None:
    """In float64 to 1e-6 (weights and covariances are stored as float32); the program's own to 2e-5."""
    data, mixture = golden("toy2d"), tree(name)
    points = data["points"].double()
    density = mixture.log_density(points, float(level)).exp()
    score = mixture.score(points, float(level))
    expected = data[f"{name}.sigma{level}.pdf_float64"]
    known = expected > 1e-30
    assert known.sum() > 100
    assert torch.allclose(density[known], expected[known], rtol=1e-6, atol=0)
    printed = data[f"{name}.sigma{level}.pdf"].double()
    assert torch.allclose(density[known], printed[known], rtol=2e-5, atol=0)
    exact = data[f"{name}.sigma{level}.score_float64"]
    gap = (score - exact).norm(dim=1) / exact.norm(dim=1)
    assert gap[known].max() < 2e-6


def test_score_and_jacobian_are_derivatives() -> None:
    """The score of the log density, the Jacobian of the drift, by autograd; finite far away."""
    mixture = tree("A")
    points = golden("toy2d")["points"].double()[:40].clone().requires_grad_()
    sigma = 0.05
    score = mixture.score(points, sigma)
    (gradient,) = torch.autograd.grad(mixture.log_density(points, sigma).sum(), points)
    assert torch.allclose(score, gradient, rtol=1e-9)
    drift = mixture.drift(points, sigma)
    rows = [torch.autograd.grad(drift[:, k].sum(), points, retain_graph=True)[0] for k in (0, 1)]
    jacobian = mixture.jacobian(points.detach(), sigma)
    assert torch.allclose(jacobian, torch.stack(rows, dim=1), rtol=1e-8)
    assert torch.allclose(jacobian, jacobian.mT, rtol=1e-8)
    assert mixture.score(torch.full((1, 2), 50.0, dtype=torch.float64), 0.002).isfinite().all()


@pytest.mark.parametrize("steps", [8, 32])
def test_end_points_of_the_published_sampler(steps: int) -> None:
    """Heun from sigma 5 to 0.002 to 0, printed in float32."""
    data = golden("toy2d")
    x = sample(
        tree("A").denoised,
        data["ode.x_init"].double() / 5,
        num_steps=steps,
        sigma_max=5.0,
        dtype=torch.float64,
    )
    gap = (x - data[f"ode.A.n{steps}.end"]).norm(dim=1)
    assert gap.median() < 1e-4 and gap.quantile(0.9) < 1e-2


def test_draws_have_the_mixtures_moments() -> None:
    mixture = tree("A")
    draws = mixture.sample(20_000, 0.5, torch.Generator().manual_seed(0))
    weights = mixture.log_weights.exp()
    mean = weights @ mixture.means
    spread = (weights[:, None] * (mixture.means - mean) ** 2).sum(0) + 0.25
    assert torch.allclose(draws.mean(0), mean, atol=0.03)
    assert torch.allclose(draws.var(0), spread, rtol=0.05)


def test_unknown_class() -> None:
    with pytest.raises(UserError, match="unknown class of the tree 'C'"):
        tree("C")
