"""SDM: the published program's end points and counts; its neutral settings; each sample by itself."""

from __future__ import annotations

import math

import pytest
import torch

from erk_bench import sample
from erk_bench.base.errors import UserError
from erk_bench.commands.compose import run_spec
from erk_bench.sampling.sample import sample_counted
from tests.conftest import golden, golden_facts
from tests.sampling.test_golden import mixture
from tests.sampling.test_solvers import gaussian, noise

RUNS = {key: run for key, run in golden_facts("methods")["runs"].items() if key.startswith("sdm_solver.")}


def test_there_are_golden_runs() -> None:
    assert len(RUNS) == 24


@pytest.mark.parametrize("key", RUNS)
def test_published_end_points(key: str) -> None:
    """1e-8; measured 1e-14. The program's batch decides together."""
    run = RUNS[key]
    options = {"tau": run["tau_k"]} if "tau_k" in run else {}
    made = sample_counted(
        mixture("main"), golden("analytic_trajectories")["noise"], solver="sdm", num_steps=run["num_steps"],
        blend=run["lambda_schedule"], batch_rule=True, dtype=torch.float64, **options,
    )  # fmt: skip
    assert (made.x - golden("methods")[key]).abs().max() <= 1e-8
    assert made.nfe == run["evaluations"] == run["nfe_reported"]


@pytest.mark.parametrize(("tau", "solver"), [(0.0, "heun"), (math.inf, "euler")])
@pytest.mark.parametrize("batch_rule", [True, False])
def test_neutral_settings(tau: float, solver: str, batch_rule: bool) -> None:
    options = {"num_steps": 7, "dtype": torch.float64}
    found = sample_counted(mixture("main"), noise(), solver="sdm", tau=tau, batch_rule=batch_rule, **options)
    plain = sample_counted(mixture("main"), noise(), solver=solver, **options)
    assert torch.equal(found.x, plain.x) and found.nfe == plain.nfe


def test_samples_switch_by_themselves() -> None:
    """Alone a sample equals itself in a batch, to the bit, and costs are means; not by the batch's rule."""
    start = golden("analytic_trajectories")["noise"]
    options = {"solver": "sdm", "num_steps": 12, "tau": 0.3, "dtype": torch.float64}
    together = sample_counted(mixture("main"), start, **options)
    alone = [sample_counted(mixture("main"), one, **options) for one in start.split(1)]
    assert torch.equal(together.x, torch.cat([each.x for each in alone]))
    assert len({each.nfe for each in alone}) > 1
    assert together.nfe == pytest.approx(sum(each.nfe for each in alone) / len(alone))
    assert not torch.equal(together.x, sample(mixture("main"), start, batch_rule=True, **options))


def test_once_switched_stays_switched() -> None:
    """After a kink the curvature falls below tau again; Heun goes on."""

    def kinked(x: torch.Tensor, sigma: torch.Tensor, labels: object) -> torch.Tensor:
        return x - sigma * torch.where(sigma > 4, 1.0, 2.0)

    levels = [10.0, 8.0, 6.0, 3.0, 2.5, 2.0, 1.5]  # the slope differs from the one before at 3 only
    options = {"sigmas": levels, "denoise_to_zero": False, "dtype": torch.float64}
    assert sample_counted(kinked, noise(), solver="sdm", tau=0.2, **options).nfe == 3 + 3 * 2


def test_a_run_refuses_what_breaks_its_blocks() -> None:
    with pytest.raises(UserError, match="batch_rule=true.*solver.batch_rule=false"):
        run_spec(["solver=sdm", "solver.batch_rule=true"])
    assert run_spec(["solver=sdm", "solver.tau=.inf"]).solver.options == (("tau", math.inf),)


@pytest.mark.parametrize("tau", [-1.0, math.nan, "much"])
def test_bad_tau(tau: object) -> None:
    with pytest.raises(UserError, match="solver.tau is .*it must be 0 or more$"):
        sample(gaussian, noise(), solver="sdm", tau=tau)
