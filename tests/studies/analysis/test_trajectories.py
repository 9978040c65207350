"""Stiffness along trajectories: against the exact mixture, finite differences and dense eigenvalues."""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import fields
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

from erk_bench import cli, load_denoiser
from erk_bench.sampling.corrections import erk_guid, no_correction
from erk_bench.sampling.sample import equation_from
from erk_bench.studies.analysis.measure import MeasuredSteps, cosine, levels, measure
from erk_bench.studies.analysis.mixture import tree
from erk_bench.studies.analysis.trajectories import (
    TOLERANCE,
    chance,
    jacobian_product,
    observe,
    power_iteration,
)
from erk_bench.studies.analysis.trajectory_figures import correlation, trajectory_figure
from tests.conftest import DATA


def test_power_iteration_finds_the_dominant_eigenpair() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.linalg.qr(torch.randn(5, 6, 6, dtype=torch.float64, generator=generator)).Q
    values = torch.tensor([-3.0, 2.0, 1.0, 0.5, 0.1, 0.0], dtype=torch.float64)
    matrices = frames @ torch.diag(values) @ frames.mT
    start = torch.randn(5, 6, dtype=torch.float64, generator=generator)
    found = power_iteration(lambda v: torch.einsum("nij,nj->ni", matrices, v), start, 60)
    # Of a symmetric matrix, the quotient's error is the square of the vector's.
    torch.testing.assert_close(found.eigenvalue, values[:1].expand(5), rtol=1e-3, atol=0)
    assert (cosine(found.vector, frames[:, :, 0]) > 0.999).all()
    assert (found.residual < 0.02).all()
    short = power_iteration(lambda v: torch.einsum("nij,nj->ni", matrices, v), start, 1)
    assert (short.residual > 0.1).all()


def test_on_the_mixture_everything_is_what_the_exact_measurement_says() -> None:
    mixture, steps = tree("A"), 12
    unit = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    problem = equation_from(num_steps=steps, dtype=torch.float64).problem(mixture.denoised)
    found = observe(problem, unit, None, no_correction, iterations=300)
    every = measure(mixture, unit * 80, levels(steps), substeps=1)
    rows = 20 * (steps - 2)  # no step starts where the last one ends, and the first has no pair
    exact = MeasuredSteps(**{item.name: getattr(every, item.name)[:rows] for item in fields(MeasuredSteps)})
    assert found.step.unique().tolist() == list(range(1, steps - 1))
    torch.testing.assert_close(found.sigma, exact.sigma_next)
    torch.testing.assert_close(found.estimate, exact.estimate)
    good = found.converged
    assert good.double().mean() > 0.95
    # An eigenvalue of a symmetric matrix is as near as the residual says.
    torch.testing.assert_close(found.eigenvalue[good], exact.eigenvalue[good], rtol=TOLERANCE, atol=0)
    # Where one eigenvalue clearly dominates, so does its vector.
    clear = good & (exact.second.abs() < 0.7 * exact.size)
    assert clear.sum() > 50
    torch.testing.assert_close(
        found.cos_df[clear], cosine(exact.df, exact.eigenvector)[clear], atol=0.05, rtol=0
    )
    assert correlation(found) > 0.9


def test_corrected_and_guided_trajectories_are_followed() -> None:
    unit = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    plain = equation_from(num_steps=8, dtype=torch.float64).problem(tree("A").denoised)
    equation = equation_from(guidance=2.0, num_steps=8, dtype=torch.float64)
    guided = equation.problem(tree("A").denoised, tree("AB").denoised)
    base = observe(plain, unit, None, no_correction, 5)
    corrected = observe(plain, unit, None, erk_guid(1.0, 0.1), 5)
    for other in (corrected, observe(guided, unit, None, no_correction, 5)):
        assert not torch.allclose(other.estimate, base.estimate)


@pytest.mark.parametrize("name", ["edm2_a_latent_cond", "edm1_f_adm_cond", "edm1_h_ddpmpp"])
def test_products_with_a_networks_jacobian(name: str) -> None:
    """Against central differences, with attention, on published formats."""
    net = load_denoiser(str(DATA / f"{name}.pkl"))
    generator = torch.Generator().manual_seed(0)
    shape = (2, net.img_channels, net.img_resolution, net.img_resolution)
    x, vector = (torch.randn(shape, generator=generator) for _ in range(2))
    labels = torch.eye(net.label_dim)[:2] if net.label_dim else None

    def slope(point: Tensor, sigma: float | Tensor, rows: Tensor | None = None) -> Tensor:
        return (point - net(point, torch.as_tensor(sigma), labels)) / sigma

    with torch.no_grad():
        product = jacobian_product(slope, x, 0.5)(vector)
        step = 1e-2
        difference = (slope(x + step * vector, 0.5) - slope(x - step * vector, 0.5)) / (2 * step)
    error = (product - difference).norm() / difference.norm()
    assert error < 5e-3


def test_chance_of_alignment() -> None:
    assert chance(2) == pytest.approx(2 / math.pi)
    directions = torch.nn.functional.normalize(
        torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0)), dim=1
    )
    assert chance(64) == pytest.approx(directions[:, 0].abs().mean().item(), rel=0.02)


def test_picture_names_its_axes() -> None:
    unit = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = observe(
        equation_from(num_steps=6, dtype=torch.float64).problem(tree("A").denoised),
        unit,
        None,
        no_correction,
        5,
    )
    figure = trajectory_figure("title", found, 2, 0.5)
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert len(panels) == 4
    assert all(axis.get_xlabel() and axis.get_ylabel() and axis.get_legend() for axis in panels)
    assert any("w_con = 0.5" in text.get_text() for text in panels[3].get_legend().get_texts())  # type: ignore[union-attr]  # checked above
    plt.close(figure)


@pytest.mark.slow
def test_command_writes_picture_and_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", f"out={tmp_path}", "images=3", "iterations=2", "schedule.num_steps=4", "offline=true"]
    assert cli.main([*words, "correction=erk_guid", "correction.w_stiff=0.5"]) == 0
    printed = capsys.readouterr().out
    assert "correlation" in printed
    files = sorted((tmp_path / "analyses").iterdir())
    assert [path.suffix for path in files] == [".csv", ".png", ".svg"]
    rows = list(csv.DictReader(files[0].open()))
    assert len(rows) == 3 * 2
    assert {"sigma", "estimate", "eigenvalue", "cos_df"} <= set(rows[0])
    assert all(float(value) == float(value) for row in rows for value in row.values())
    assert str(files[0].with_suffix("")) in printed
    again = [path.read_bytes() for path in files]
    assert cli.main([*words, "correction=erk_guid", "correction.w_stiff=0.5"]) == 0
    assert [path.read_bytes() for path in files] == again


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["images=0"], "images is '0'"),
        (["images=2000"], "it must be 1 to 125"),
        (["iterations=few"], "iterations is 'few'"),
        (["solver=euler"], "heun, dpm2, deis"),
        (["solver.s_churn=1"], "solver.s_churn is 1; set it to 0"),
        (["guidance=apg", "guidance.momentum=-0.5"], "set guidance.momentum=0"),
        (["schedule.num_steps=2"], "use more steps"),
        (["tracker=wandb"], "leave out tracker"),
    ],
)
def test_what_cannot_be_analyzed(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["analyze", f"out={tmp_path}", *words]) != 0
    assert told in capsys.readouterr().err
    assert not list(itertools.chain(tmp_path.iterdir()))


def test_more_than_one_process_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["analyze"]) != 0
    assert "without torchrun" in capsys.readouterr().err
