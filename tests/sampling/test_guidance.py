"""Model guidance and the ERK correction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import erk_bench.sampling.guidance as guidance_module
from erk_bench import sample
from erk_bench.errors import UserError
from erk_bench.sampling.guidance import erk_guid, guided
from erk_bench.sampling.sample import sample_counted
from erk_bench.sampling.solvers import Node, Step
from tests.conftest import golden, golden_net
from tests.sampling.test_solvers import gaussian, noise


def wide(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    """Another denoiser: data of standard deviation 2."""
    return x * 4 / (4 + sigma**2)


def random_step(span: float = 0.3) -> Step:
    draw = torch.Generator().manual_seed(1)
    x, x2, slope, slope2, x_next = torch.randn(5, 3, 2, 4, 4, generator=draw, dtype=torch.float64)
    return Step(x_next, Node(x, slope), Node(x2, slope2), span, None)


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


def test_zero_strength_leaves_the_step_alone() -> None:
    step = random_step()
    assert erk_guid(0.0, 0.0)(step).x_next is step.x_next


def test_a_closed_gate_changes_nothing() -> None:
    step = random_step()
    assert torch.equal(erk_guid(1.0, 1e9)(step).x_next, step.x_next)


def test_the_gate_is_strict() -> None:
    """Stiffness equal to w_con does not open the gate."""
    stiffness = erk_guid(1.0, 0.0)(random_step()).stiffness
    assert stiffness is not None
    gate = erk_guid(1.0, stiffness[1].item())(random_step()).gate
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
        guidance_module.torch.linalg, "vector_norm", lambda *a, **k: (calls.append("norm"), norm(*a, **k))[1]
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
        return Node(*(value.as_subclass(Counting) for value in node))

    erk_guid(1.0, 0.0)(step._replace(node=counting(step.node), partner=counting(step.partner)))
    assert sorted(calls) == ["norm", "norm", "sub", "sub", "sum"]


def test_not_applied_at_the_first_and_last_step() -> None:
    points = []
    sample(gaussian, noise(), num_steps=5, w_stiff=1.0, trace=points.append)
    assert [point.stiffness is not None for point in points] == [False, True, True, True, False]
    assert points[-1].sigma_next == 0


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
