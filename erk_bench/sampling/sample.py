"""`sample`: noise in, final state out; the Python API that notebooks and the generator share."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, Protocol

import torch
from torch import Tensor

from erk_bench.errors import UserError, unknown_name
from erk_bench.sampling.corrections import NEED_EULER, W_CON
from erk_bench.sampling.guidance import CORRECTIONS, GUIDANCES, Denoiser, keeps_state
from erk_bench.sampling.loop import Churn, CountedDenoiser, Run, Trace, integrate
from erk_bench.sampling.schedules import DEFAULT_RHO, SCHEDULES, check_levels
from erk_bench.sampling.schedules import sigmas as noise_levels
from erk_bench.sampling.seeds import SeededDraws, initial
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.sampling.steps import Solver, StepFunction


class DenoiserModel(Protocol):
    """What the sampler needs to know of a denoiser network."""

    img_channels: int
    img_resolution: int
    label_dim: int

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor: ...


class Sampled(NamedTuple):
    """The final state, and how often each network was called (NFE) to reach it.

    Where samples choose their own steps, the mean of their evaluations.
    """

    x: Tensor
    nfe: float
    nfe_guide: float


def draw(
    seeds: Sequence[int], net: DenoiserModel, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor | None]:
    """Noise and labels of each seed: unit normal float32 NCHW, one-hot [B, label_dim] or None."""
    shape = (net.img_channels, net.img_resolution, net.img_resolution)
    return initial(SeededDraws(seeds, device), shape, net.label_dim)


P = ParamSpec("P")


def _state_only(function: Callable[P, Sampled]) -> Callable[P, Tensor]:
    """The same function returning the state alone, and explaining a misspelt option."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def state_only(*args: P.args, **options: P.kwargs) -> Tensor:
        solver: Any = options.get("solver", "heun")
        row = SOLVERS.get(solver) if isinstance(solver, str) else solver_row(solver)
        own = row.defaults if row else {}
        for name in options:
            if name not in known and name not in own:
                raise unknown_name("option of sample()", name, [*list(known)[:-1], *own])
        return function(*args, **options).x

    return state_only


@torch.inference_mode()
def sample_counted(
    net: Callable[..., Tensor],
    noise: Tensor,
    labels: Tensor | None = None,
    solver: str | Solver | StepFunction = "heun",
    num_steps: int = 32,
    w_stiff: float = 0.0,
    w_con: float = W_CON,
    guide: Callable[..., Tensor] | None = None,
    guidance: float = 1.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float | None = None,
    dtype: torch.dtype = torch.float32,
    schedule: str | None = None,
    sigmas: Sequence[float] | None = None,
    denoise_to_zero: bool | None = None,
    afs: bool = False,
    correction: str = "erk_guid",
    guidance_method: str = "cfg",
    guidance_options: Mapping[str, float] | None = None,
    guidance_interval: tuple[float, float] = (0.0, math.inf),
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    fresh_noise: Callable[[Tensor], Tensor] = torch.randn_like,
    trace: Trace | None = None,
    **solver_options: Any,
) -> Sampled:
    """Sample from a denoiser by solving its probability-flow ODE; `erk_bench.sample` returns `.x` only.

    net: `net(x, sigma, labels) -> denoised`, NCHW. noise: unit normal NCHW, multiplied by the first sigma
    (see `draw`). labels: one-hot [B, label_dim] or None.
    solver: key of SOLVERS, or a step function of your own; its options (max_order, r, ...) are further
    keyword arguments. schedule, rho: key of SCHEDULES and its exponent; None is what the solver is published
    with. num_steps: number of sigmas, from sigma_max to sigma_min. sigmas: explicit ones instead.
    denoise_to_zero: a last step to zero after sigma_min; None is as the solver is published. afs: analytical
    first step, which saves an evaluation.
    w_stiff, w_con: strength and gate of ERK-Guid (arXiv 2603.03692); w_stiff = 0 is the plain solver, and
    w_con = 0 opens the gate wherever there is an estimate.
    correction: key of CORRECTIONS, used where w_stiff is not 0.
    guide, guidance, guidance_interval: a second denoiser, its weight (1: off), and the sigmas (low, high] in
    which it acts. guidance_method, guidance_options: key of GUIDANCES, and its options.
    sigma_min, sigma_max: of the schedule. dtype: of the state.
    s_churn, s_min, s_max, s_noise, fresh_noise: stochastic sampling (arXiv 2206.00364, algorithm 2).
    trace: called with a TracePoint after every step.

    Raises UserError for values that do not fit together; an unknown name fails with the valid ones listed.
    """
    problem = pose(
        net, guide=guide, guidance=guidance, guidance_method=guidance_method,
        guidance_options=guidance_options, guidance_interval=guidance_interval, solver=solver,
        solver_options=solver_options, schedule=schedule, num_steps=num_steps, sigma_min=sigma_min,
        sigma_max=sigma_max, rho=rho, dtype=dtype, sigmas=sigmas, denoise_to_zero=denoise_to_zero, afs=afs,
    )  # fmt: skip
    if correction not in CORRECTIONS:
        raise unknown_name("correction", correction, CORRECTIONS)
    if w_stiff:
        check_paired(problem.solver, str(solver), correction)
    if w_stiff and s_churn:
        raise UserError(
            f"ERK-Guid (w_stiff {w_stiff}) needs deterministic sampling, but s_churn is {s_churn}; "
            "set one of them to 0"
        )
    # The estimates are free: a trace sees them at w_stiff = 0 too, where the step is left as it is.
    wants_estimate = w_stiff != 0 or (trace is not None and problem.solver.paired)
    x = integrate(
        problem.denoiser,
        noise.to(dtype) * problem.run.levels[0],
        problem.run,
        labels,
        CORRECTIONS[correction if wants_estimate else "none"](w_stiff, w_con),
        Churn(s_churn, s_min, s_max, s_noise, fresh_noise) if s_churn else None,
        trace,
    )
    return Sampled(x, *problem.evaluations(len(noise)))


class Problem(NamedTuple):
    """What is solved and how: the guided denoiser, the run's steps, and the counted networks behind it."""

    denoiser: Denoiser
    run: Run
    solver: Solver
    main: CountedDenoiser
    guiding: CountedDenoiser | None

    def evaluations(self, batch: int) -> tuple[float, float]:
        """Calls of the main and the guiding network; means over the batch where samples differ."""

        def of(net: CountedDenoiser | None) -> float:
            if net is None:
                return 0
            return net.num_calls if net.num_images == net.num_calls * batch else net.num_images / batch

        return of(self.main), of(self.guiding)


def pose(
    net: Callable[..., Tensor],
    *,
    guide: Callable[..., Tensor] | None = None,
    guidance: float = 1.0,
    guidance_method: str = "cfg",
    guidance_options: Mapping[str, float] | None = None,
    guidance_interval: tuple[float, float] = (0.0, math.inf),
    solver: str | Solver | StepFunction = "heun",
    solver_options: Mapping[str, Any] | None = None,
    schedule: str | None = None,
    num_steps: int = 32,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float | None = None,
    dtype: torch.dtype = torch.float32,
    sigmas: Sequence[float] | None = None,
    denoise_to_zero: bool | None = None,
    afs: bool = False,
) -> Problem:
    """The options of `sample` that say which equation is solved at which noise levels, checked."""
    row = solver_row(solver)
    row.check(str(solver), solver_options or {})
    schedule = row.schedule if schedule is None else schedule
    if schedule not in SCHEDULES:
        raise unknown_name("schedule", schedule, SCHEDULES)
    if guidance_method not in GUIDANCES:
        raise unknown_name("guidance_method", guidance_method, GUIDANCES)
    method = GUIDANCES[guidance_method]
    guidance_options = guidance_options or {}
    method.check(guidance_method, guidance, guidance_options)
    if guide is None and method.active(guidance):
        raise UserError(
            f"guidance is {guidance} with guidance_method '{guidance_method}' but there is no guide; "
            "pass guide=NET or guidance_method='cfg' with guidance=1"
        )
    if row.adaptive and keeps_state(guidance_options):
        raise UserError(
            f"guidance with momentum {guidance_options['momentum']} reads each sample's last evaluation, and "
            f"solver '{solver}' steps back; set momentum=0 or use a solver of fixed steps"
        )
    main = CountedDenoiser(net)
    guiding = CountedDenoiser(guide) if guide is not None else None
    if sigmas is not None:
        levels = check_levels([float(sigma) for sigma in sigmas])
    else:
        exponent = (
            rho if rho is not None else (row.rho if schedule == row.schedule else DEFAULT_RHO[schedule])
        )
        levels = noise_levels(SCHEDULES[schedule], num_steps, sigma_min, sigma_max, exponent, dtype)
    denoiser = method.make(main, guiding or main, guidance, guidance_interval, levels, **guidance_options)
    to_zero = row.to_zero if denoise_to_zero is None else denoise_to_zero
    run = Run(row.bound(solver_options or {}, levels), row.history, levels, to_zero, afs)
    return Problem(denoiser, run, row, main, guiding)


def solver_row(solver: str | Solver | StepFunction) -> Solver:
    """The row of SOLVERS of that name; of a step function, one that may do everything."""
    if isinstance(solver, Solver):
        return solver
    if isinstance(solver, str):
        if solver not in SOLVERS:
            raise unknown_name("solver", solver, SOLVERS)
        return SOLVERS[solver]
    return Solver(solver, order=0, history=sys.maxsize, paired=True, to_zero=True, contains_euler=True)


def check_paired(solver: Solver, name: str, correction: str) -> None:
    """Refuse a correction on a solver that does not have what it reads."""
    if not solver.paired:
        paired = ", ".join(name for name, row in SOLVERS.items() if row.paired)
        raise UserError(
            f"solver '{name}' has no embedded pair for correction '{correction}'; use no correction "
            f"(w_stiff=0), or one of these solvers: {paired}"
        )
    if correction in NEED_EULER and not solver.contains_euler:
        fitting = ", ".join(name for name, row in SOLVERS.items() if row.contains_euler)
        raise UserError(
            f"correction '{correction}' compares a step with Euler's, which solver '{name}' does not contain;"
            f" use solver={fitting}, or correction=erk_guid"
        )


sample = _state_only(sample_counted)
