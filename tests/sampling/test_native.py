"""Sampling in a flow model's own coordinates gives what the published programs give, step for step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.sampling.corrections import CORRECTIONS
from erk_bench.sampling.equation import Equation, schedule_part, solver_part
from erk_bench.sampling.native import PlainRules, flow_shares, shares_between
from erk_bench.sampling.sample import equation_from, sample, sample_counted
from erk_bench.sampling.schedules import SCHEDULES
from erk_bench.sampling.shared import sample_grid
from erk_bench.sampling.solvers import SOLVERS
from tests.conftest import golden, golden_facts, golden_net
from tests.flow_golden import NETWORKS, facts, family, far, flow_golden, flow_net
from tests.pretend_gpu import PretendGpu

RUNS = [
    pytest.param(name, tag, marks=[pytest.mark.slow] if "n250" in tag or "ddim250" in tag else [])
    for name in NETWORKS
    for tag in facts(name)["samplers"]
    if "dopri5" not in tag
]


def options(name: str, run: dict[str, Any]) -> dict[str, Any]:
    """The options of `sample` for a run of a published sampler."""
    found: dict[str, Any] = {
        "coordinates": "native",
        "guidance": run.get("cfg_scale") or run.get("cfg") or 1.0,
    }
    if family(name) in ("sit", "lightningdit"):  # num_steps counts points
        method = {"heun2": "heun"}.get(run["sampling_method"], run["sampling_method"])
        found |= {"solver": method, "num_steps": run["num_steps"] - 1}
        if run.get("timestep_shift"):
            found["schedule_options"] = {"timestep_shift": run["timestep_shift"]}
        if run.get("cfg_interval"):
            found["guidance_interval"] = (run["cfg_interval_start"], 1.0)
    elif family(name) == "repa":
        found |= {"solver": "heun" if run["heun"] else "euler", "num_steps": run["num_steps"]}
        found |= {"guidance_interval": (run["guidance_low"], run["guidance_high"]), "dtype": torch.float64}
    elif family(name) == "jit":
        found |= {"solver": run["sampling_method"], "num_steps": run["num_sampling_steps"]}
        found["guidance_interval"] = (run["interval_min"], run["interval_max"])
    else:
        spacing = "stride" if run["respacing"].startswith("ddim") else "even"
        found |= {"solver": "euler", "schedule": "ddpm", "schedule_options": {"spacing": spacing}}
        found["num_steps"] = int(run["respacing"].removeprefix("ddim"))
    return found


def run_of(name: str, tag: str, **more: Any) -> tuple[Tensor, float]:
    data, net = flow_golden(name), flow_net(name)
    noise = data["sample.noise"] if "sample.noise" in data else data["sample.noise_unit"]
    chosen = {**options(name, facts(name)["samplers"][tag]), **more}
    guide = net if chosen["guidance"] != 1 else None
    found = sample_counted(net, noise, data["sample.y"], guide=guide, **chosen)
    return found.x, found.nfe


@pytest.mark.parametrize(("name", "tag"), RUNS)
def test_end_points_are_the_programs(name: str, tag: str) -> None:
    found, nfe = run_of(name, tag)
    assert far(found, flow_golden(name)[f"sample.{tag}.out"]) < 5e-6
    run = facts(name)["samplers"][tag]
    # JiT calls its network twice for every evaluation.
    assert nfe == run["network_calls"] / (2 if family(name) == "jit" else 1)


def test_there_are_runs_of_every_program() -> None:
    assert {run.values[0] for run in RUNS} == set(NETWORKS) and len(RUNS) > 45


@pytest.mark.parametrize(
    "tag", ["dopri5.tight_f64", pytest.param("dopri5.tight_f64.cfg4", marks=pytest.mark.slow)]
)
def test_many_steps_converge_to_the_programs_end_point(tag: str) -> None:
    data, net = flow_golden("sit_a"), flow_net("sit_a", torch.float64)
    weight = facts("sit_a")["samplers"][tag]["cfg_scale"] or 1.0
    found = sample(
        net, data["sample.noise"], data["sample.y"], guide=net if weight != 1 else None, guidance=weight,
        coordinates="native", solver="rk4", num_steps=100, dtype=torch.float64,
    )  # fmt: skip
    assert far(found, data[f"sample.{tag}.out"]) < 1e-5


def test_grids_are_lightningdits() -> None:
    data = {key: value for key, value in flow_golden("lightningdit_b").items() if key.startswith("grid.")}
    assert len(data) >= 5
    for key, times in data.items():
        points, shift = key.removeprefix("grid.n").split(".shift")
        shares = flow_shares(int(points) - 1, torch.float32, timestep_shift=float(shift) or 1.0)
        assert torch.equal(1 - torch.tensor([*shares, 0.0], dtype=torch.float64), times.double())


def test_timesteps_are_dits() -> None:
    data = flow_golden("dit_a")
    for spacing, steps in golden_facts("flow/flow_golden")["timesteps"].items():
        word = "stride" if spacing.startswith("ddim") else "even"
        schedule = schedule_part("ddpm", {"spacing": word})
        levels = Equation(num_steps=len(steps), schedule=schedule, dtype=torch.float64).levels
        assert list(levels) == pytest.approx(data["sigmas"][steps].flip(0).tolist(), rel=1e-12)


@pytest.mark.parametrize("name", [name for name in NETWORKS if family(name) != "dit"])
def test_eulers_steps_are_those_in_sigma(name: str) -> None:
    """From the first finite sigma on; Heun's are not."""
    net = flow_net(name)
    noise = torch.randn(2, net.img_channels, net.img_resolution, net.img_resolution)
    scale = net.native_rules.noise_scale
    shares = flow_shares(8, torch.float64)[1:]
    sigmas = [scale * share / (1 - share) for share in shares]
    common: dict[str, Any] = {"dtype": torch.float64, "labels": torch.tensor([1, 2])}
    found = {}
    for solver in ("euler", "heun"):
        ours = sample(net, noise, solver=solver, sigmas=sigmas, **common)
        own = sample(
            net, noise, solver=solver, sigmas=sigmas, coordinates="native", last_step="euler", **common
        )
        found[solver] = far(own, ours)
    least = net.family.path.least_share if net.family.path else 0
    assert found["euler"] < 1e-5 or least
    assert found["heun"] > 1e-4


class GaussianFlow:
    """The flow of Gaussian data of standard deviation SPREAD; its trajectories have a closed form."""

    img_channels, img_resolution, num_classes = 2, 4, 0
    spread = 0.7

    def __init__(self, **rules: Any) -> None:
        self.native_rules = PlainRules(**rules)

    def native_slope(self, x_t: Tensor, share: Tensor, condition: Tensor | None = None) -> Tensor:
        """dx_t/du = E[noise - data | x_t]."""
        u, scale = share.reshape(-1, *[1] * (x_t.ndim - 1)), self.native_rules.noise_scale
        clean, noisy = self.spread**2, scale**2
        total = (1 - u) ** 2 * clean + u**2 * noisy
        return x_t * (u * noisy - (1 - u) * clean) / total

    def __call__(self, x: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        raise AssertionError("x and sigma are not its own coordinates")


def start() -> Tensor:
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_converges(solver: str, scale: float) -> None:
    """Pure noise of standard deviation `scale` ends as data of standard deviation SPREAD."""
    row = SOLVERS[solver]
    found = sample(
        GaussianFlow(noise_scale=scale, euler_last=True), start(), coordinates="native", solver=solver,
        num_steps=200, dtype=torch.float64, **row.plain,
    )  # fmt: skip
    assert far(found, 0.7 * start()) < 0.03


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2), ("rk4", 4)])
def test_orders_with_the_last_step(solver: str, order: int) -> None:
    """The solver's own last step, to zero noise, keeps the order of the whole run."""
    errors = [
        far(
            sample(
                GaussianFlow(), start(), coordinates="native", solver=solver, num_steps=n, dtype=torch.float64
            ),
            0.7 * start(),
        )
        for n in (20, 40)
    ]
    assert math.log2(errors[0] / errors[1]) > order - 0.3


def test_the_last_step_can_be_chosen() -> None:
    """SiT's is its solver's, REPA's Euler's; each as the other's, too."""
    for rules, asked, calls in (({}, "euler", 19), ({"euler_last": True}, "solver", 20)):
        net, common = GaussianFlow(**rules), {"coordinates": "native", "num_steps": 10}
        assert sample_counted(net, start(), last_step=asked, **common).nfe == calls
        assert sample_counted(net, start(), **common).nfe == 39 - calls


@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluations_are_counted_without_the_network(solver: str) -> None:
    for rules in (PlainRules(), PlainRules(by_step=True, euler_last=True, data_time=0)):
        equation = equation_from(
            solver=solver, num_steps=8, coordinates="native", guidance=2.0, guidance_interval=(0.3, 0.7)
        )
        if SOLVERS[solver].adaptive:
            continue
        net = GaussianFlow(**rules._asdict())
        found = sample_counted(
            net, start(), guide=net, solver=solver, num_steps=8, coordinates="native", guidance=2.0,
            guidance_interval=(0.3, 0.7),
        )  # fmt: skip
        assert equation.count_evaluations(guided=True, rules=rules) == (found.nfe, found.nfe_guide)


@pytest.mark.parametrize("ends", ["[]", "()", "[)", "(]"])
@pytest.mark.parametrize("data_time", [0, 1])
def test_ends_of_an_interval(ends: str, data_time: int) -> None:
    """Guided at which of the ten times 0.1, 0.2, ..., whose ends are 0.3 and 0.7."""
    rules = PlainRules(data_time=data_time)
    low, high = shares_between((0.3, 0.7), rules, ends, torch.float32)
    inside = []
    for share in flow_shares(10, torch.float32, data_time):
        t = 1 - share if data_time else share
        inside += [round(t, 3)] if low < share <= high else []
    expected = [0.3, 0.4, 0.5, 0.6, 0.7]
    assert sorted(inside) == expected[ends[0] == "(" : len(expected) - (ends[1] == ")")]


def test_a_step_or_an_evaluation_decides() -> None:
    """REPA's second evaluation follows the time at which its step starts."""
    counts = {}
    for decides in ("step", "evaluation"):
        net = GaussianFlow(data_time=0)
        counts[decides] = sample_counted(
            net, start(), guide=net, guidance=1.5, guidance_interval=(0.0, 0.55), coordinates="native",
            num_steps=10, decides=decides, last_step="euler",
        ).nfe_guide  # fmt: skip
    assert counts == {"step": 2 * 5 - 1, "evaluation": 2 * 5}


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_corrections_act_in_these_coordinates(correction: str) -> None:
    common: dict[str, Any] = {"coordinates": "native", "num_steps": 6, "dtype": torch.float64}
    plain = sample(GaussianFlow(), start(), **common)
    assert torch.equal(sample(GaussianFlow(), start(), correction=correction, w_stiff=0.0, **common), plain)
    if correction == "none":
        return
    if CORRECTIONS[correction].of_edm:
        with pytest.raises(UserError, match="'erk_gauss' holds in x and sigma, not with coordinates=native"):
            sample(GaussianFlow(), start(), correction=correction, w_stiff=0.5, **common)
        return
    moved = sample(GaussianFlow(), start(), correction=correction, w_stiff=0.5, w_con=0.0, **common)
    assert not torch.equal(moved, plain)


def test_a_grid_is_its_cells() -> None:
    net, labels = flow_net("sit_a"), flow_golden("sit_a")["sample.y"]
    noise = flow_golden("sit_a")["sample.noise"]
    common: dict[str, Any] = {
        "coordinates": "native", "num_steps": 5, "guide": net, "guidance": 2.0,
        "guidance_interval": (0.2, 0.9), "decides": "step",
    }  # fmt: skip
    cells = [(0.0, 0.5), (0.5, 0.0), (1.0, 0.01)]
    found = sample_grid(net, noise, labels, cells=cells, **common)
    for index, (w_stiff, w_con) in enumerate(cells):
        assert far(found.x[index], sample(net, noise, labels, w_stiff=w_stiff, w_con=w_con, **common)) < 1e-5


def test_a_schedule_in_sigma_serves() -> None:
    """Its levels are the model's times at these sigmas, and noise starts with the variance of x_t there."""
    net = GaussianFlow(noise_scale=2.0)
    equation = equation_from(
        coordinates="native", sigmas=[6.0, 2.0, 0.5], solver="euler", dtype=torch.float64
    )
    problem = equation.problem(net)
    assert list(problem.run.levels) == [0.75, 0.5, 0.2] and problem.start == 1.5


def test_flow_levels_in_sigma() -> None:
    """Uniform in u = sigma / (1 + sigma) before the shift, which leaves the ends."""
    for shift, stretched in ((1.0, 1.0), (3.0, 1.0), (1.0, 0.3)):
        made = SCHEDULES["flow"].levels(
            9, 0.01, 50.0, 7.0, torch.float64, shift=shift, timestep_shift=stretched
        )
        assert isinstance(made, Tensor)
        u, a = made / (1 + made), shift / stretched
        before = u / (a - (a - 1) * u)
        assert (before.diff() - before.diff()[0]).abs().max() < 1e-12
        assert made[0].item() == pytest.approx(50.0) and made[-1].item() == pytest.approx(0.01)
    own = flow_shares(4, torch.float64, shift=3.0)
    assert own == pytest.approx([1.0, 0.9, 0.75, 0.5])
    assert flow_shares(4, torch.float64, 0, timestep_shift=1 / 3) == pytest.approx(own)


def refusal(net: Any = None, **chosen: Any) -> str:
    with pytest.raises(UserError) as error:
        sample(net or GaussianFlow(), start().float(), **{"coordinates": "native", "num_steps": 4, **chosen})
    return str(error.value)


def test_what_does_not_fit_is_refused() -> None:
    assert "unknown coordinates 'nativ'; did you mean 'native'?" in refusal(coordinates="nativ")
    assert "unknown interval_ends '[['" in refusal(interval_ends="[[")
    assert "decides is 'step', which belongs to coordinates=native" in refusal(
        coordinates="edm", decides="step"
    )
    assert "afs and s_churn belong to x and sigma" in refusal(afs=True)
    assert "afs and s_churn belong to x and sigma" in refusal(s_churn=1.0)
    assert "solver 'dpmpp' makes no last step to zero noise" in refusal(solver="dpmpp", last_step="solver")
    assert "num_steps is 1; a schedule needs at least 2" in refusal(num_steps=1)
    assert "no option 'shft'" in refusal(schedule_options={"shft": 2.0})
    assert "schedule_options belong to a schedule" in refusal(
        coordinates="edm", schedule_options={"shift": 2.0}
    )
    assert "no stride makes 400 of 1000 noise levels" in refusal(
        flow_net("dit_a"), schedule="ddpm", num_steps=400
    )
    assert "set schedule=ddpm" in refusal(flow_net("dit_a"))
    assert "class EDMPreconditioned has none" in refusal(golden_net("a"))


def test_solvers_that_know_zero_are_those_of_the_table() -> None:
    assert [name for name, row in SOLVERS.items() if row.knows_zero] == ["euler", "heun", "midpoint", "rk4"]
    assert solver_part("rk4").row.order == 4


@pytest.mark.parametrize("name", ["sit_a", "dit_a"])
def test_sampling_does_not_wait(name: str, pretend_gpu: PretendGpu) -> None:
    import copy

    net = copy.deepcopy(flow_net(name)).to("cuda")
    data = flow_golden(name)
    noise = data["sample.noise"] if "sample.noise" in data else data["sample.noise_unit"]
    x, labels = noise.to("cuda"), data["sample.y"].to("cuda")
    common: dict[str, Any] = {"coordinates": "native", "num_steps": 2, "guide": net, "guidance": 2.0}
    common |= {"schedule": "ddpm"} if name == "dit_a" else {"guidance_interval": (0.2, 0.8)}
    sample(net, x, labels, **common)
    with pretend_gpu.watch() as waits:
        sample(net, x, labels, **common)
    assert waits == []


SDE: dict[str, dict[str, Any]] = {
    "sit_a.sde.euler.sigma.Mean.n20": {},
    "repa_a.sde.n20": {"dtype": torch.float64},
    "repa_a.sde.n20.cfg1.8.low0.high0.7": {
        "dtype": torch.float64, "guidance": 1.8, "guidance_interval": (0.0, 0.7),
    },
}  # fmt: skip


@pytest.mark.parametrize("run", SDE)
def test_end_points_of_stochastic_equations_are_the_programs(run: str) -> None:
    """Of the draws that SiT's and REPA's programs were handed, one a step but the last."""
    name, every = run.partition(".")[0], golden("flow/flow_sde")
    data, net = flow_golden(name), flow_net(name)
    draws = iter(every[f"{name}.draws"])
    options = {"coordinates": "native", "solver": "euler", "num_steps": 20, "sde": 0.04, **SDE[run]}
    guide = net if "cfg" in run else None
    found = sample_counted(
        net, data["sample.noise"], data["sample.y"], guide=guide, **options,
        fresh_noise=lambda x: next(draws).to(x.dtype),
    )  # fmt: skip
    assert far(found.x, every[run]) < 5e-6
    assert found.nfe == 20 and next(draws, None) is None


@pytest.mark.parametrize("rules", [{}, {"data_time": 0}, {"noise_scale": 2.0}])
def test_a_stochastic_equation_ends_at_the_data(rules: dict[str, Any]) -> None:
    """Whose standard deviation is SPREAD; the end no longer follows from the start."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1000, 2, 4, 4, generator=generator, dtype=torch.float64)
    found = sample(
        GaussianFlow(**rules), noise, coordinates="native", solver="euler", num_steps=200, sde=0.01,
        dtype=torch.float64, fresh_noise=lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype),
    )  # fmt: skip
    assert found.std().item() == pytest.approx(GaussianFlow.spread, rel=0.03)
    assert abs(torch.corrcoef(torch.stack([found.flatten(), noise.flatten()]))[0, 1]) < 0.5


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"solver": "heun"}, "stochastic equations are solved by solver=euler without a correction"),
        ({"w_stiff": 0.5, "correction": "erk_dx"}, "by solver=euler without a correction"),
        ({"coordinates": "edm"}, "sde is 0.04, which belongs to coordinates=native"),
        ({"sde": 1.0}, "sde is 1; it must be a share of noise below 1"),
        ({"sde": -0.1}, "sde is -0.1; it must be"),
        ({"sde": math.nan}, "sde is nan; it must be"),
    ],
)
def test_stochastic_equations_that_are_refused(options: dict[str, Any], told: str) -> None:
    given = {"coordinates": "native", "solver": "euler", "num_steps": 4, "sde": 0.04, **options}
    with pytest.raises(UserError, match=told):
        sample(GaussianFlow(), start(), **given)


def test_a_stochastic_equation_shares_nothing_and_has_no_levels_of_its_own() -> None:
    assert not equation_from(coordinates="native", solver="euler", sde=0.04).shares
    net = flow_net("dit_a")
    with pytest.raises(UserError, match="sde belongs to flow matching, and this network has noise levels of"):
        sample(
            net, torch.zeros(1, 4, 8, 8), coordinates="native", solver="euler", schedule="ddpm", num_steps=4,
            sde=0.04,
        )  # fmt: skip
