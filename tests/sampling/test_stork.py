"""STORK against its authors' programs, and how the plain method differs."""

from __future__ import annotations

import math

import pytest
import torch

from erk_bench import sample
from erk_bench.sampling.sample import Sampled, sample_counted
from erk_bench.sampling.schedules import DDPM_BETAS, vp_sigma
from tests.conftest import golden, golden_facts
from tests.sampling.test_golden import mixture
from tests.sampling.test_solvers import exact_at, gaussian, noise

RUNS = golden_facts("methods")["runs"]
FLOW = [key for key in RUNS if key.startswith("stork2_flow.")]
VP = [key for key in RUNS if key.startswith("stork2_vp.")]
START = 1e8  # t = 1 is an infinite noise level


def test_there_are_golden_runs() -> None:
    assert (len(FLOW), len(VP)) == (20, 4)


@pytest.mark.parametrize("key", FLOW)
def test_the_flow_scheduler(key: str) -> None:
    """float64: 1e-7, for its step sizes are float32 (measured 5.4e-8). float32: 1e-4."""
    run = RUNS[key]
    times = [time / 1000 for time in run["timesteps"][1:]]
    made = sample_counted(
        mixture("main"), golden("analytic_trajectories")["noise"], solver="stork", form="flow",
        degree=run["derivative_order"], stages=run["stages"], published=True, denoise_to_zero=True,
        sigmas=[START, *(time / (1 - time) for time in times)], dtype=torch.float64,
    )  # fmt: skip
    gap = (made.x - golden("methods")[key]).abs().max()
    assert gap <= (1e-7 if key.endswith("f64") else 1e-4) and made.nfe == run["evaluations"]


def vp_run(key: str, published: bool) -> Sampled:
    run = RUNS[key]
    levels = [vp_sigma(time / run["total_step"], DDPM_BETAS) for time in run["times"]]
    start = golden("analytic_trajectories")["noise"] * math.hypot(1, levels[0]) / levels[0]
    made = sample_counted(
        mixture("main"), start, solver="stork", stages=run["stages"], published=published, sigmas=levels,
        denoise_to_zero=False, dtype=torch.float64,
    )  # fmt: skip
    return made._replace(x=made.x / math.hypot(1, levels[-1]))


@pytest.mark.parametrize("key", VP)
def test_the_vp_program(key: str) -> None:
    """1e-7 (measured 3.3e-8). The plain method is nearer to the exact solution, and saves an evaluation."""
    made, plain, exact = vp_run(key, True), vp_run(key, False), golden("methods")["exact.vp.t1_to_t0.001"]
    assert (made.x - golden("methods")[key]).abs().max() <= 1e-7
    assert made.nfe == RUNS[key]["evaluations"] == plain.nfe + 1
    assert (plain.x - exact).abs().max() < (made.x - exact).abs().max()


def test_order_of_a_run_in_flow_time() -> None:
    errors = []
    for num_steps in (161, 321):
        x = sample(
            gaussian, noise(), solver="stork", form="flow", num_steps=num_steps, sigma_min=0.1, sigma_max=4.0,
            schedule="polynomial", denoise_to_zero=False, dtype=torch.float64,
        )  # fmt: skip
        errors.append((x - exact_at(noise() * 4.0, 4.0, 0.1)).abs().max().item())
    assert 1.7 < math.log2(errors[0] / errors[1]) < 2.5


def test_a_step_to_zero_is_eulers_in_vp_time_only() -> None:
    levels = [4.0, 2.0, 1.0, 0.5]
    ends = {}
    for form in ("vp", "flow"):
        options = {"solver": "stork", "form": form, "sigmas": levels, "dtype": torch.float64}
        before = sample(gaussian, noise(), denoise_to_zero=False, **options)
        end = sample(gaussian, noise(), denoise_to_zero=True, **options)
        denoised = gaussian(before, torch.tensor(0.5, dtype=torch.float64), None)
        ends[form] = torch.allclose(end, denoised, rtol=1e-12)
    assert ends == {"vp": True, "flow": False}
