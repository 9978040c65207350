"""`sample`: noise in, final state out; the Python API that notebooks and the generator share."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, Protocol

import torch
from torch import Tensor

from erk_bench.errors import UserError, unknown_name
from erk_bench.sampling.guidance import CORRECTIONS, Denoiser, guided
from erk_bench.sampling.loop import Churn, CountedDenoiser, Trace, integrate
from erk_bench.sampling.schedules import SCHEDULES, sigmas
from erk_bench.sampling.seeds import SeededDraws, initial
from erk_bench.sampling.solvers import SOLVERS, Solver


class DenoiserModel(Protocol):
    """What the sampler needs to know of a denoiser network."""

    img_channels: int
    img_resolution: int
    label_dim: int

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor: ...


class Sampled(NamedTuple):
    """The final state, and how often each network was called (NFE) to reach it."""

    x: Tensor
    nfe: int
    nfe_guide: int


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
        for name in options:
            if name not in known:
                raise unknown_name("option of sample()", name, known)
        return function(*args, **options).x

    return state_only


@torch.inference_mode()
def sample_counted(
    net: Callable[..., Tensor],
    noise: Tensor,
    labels: Tensor | None = None,
    solver: str = "heun",
    num_steps: int = 32,
    w_stiff: float = 0.0,
    w_con: float = 0.0,
    guide: Callable[..., Tensor] | None = None,
    guidance: float = 1.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    dtype: torch.dtype = torch.float32,
    schedule: str = "polynomial",
    guidance_interval: tuple[float, float] = (0.0, math.inf),
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    fresh_noise: Callable[[Tensor], Tensor] = torch.randn_like,
    trace: Trace | None = None,
) -> Sampled:
    """Sample from a denoiser by solving its probability-flow ODE; `erk_bench.sample` returns `.x` only.

    net: `net(x, sigma, labels) -> denoised`, NCHW. noise: unit normal NCHW, multiplied by the first sigma
    (see `draw`). labels: one-hot [B, label_dim] or None.
    solver, schedule: keys of SOLVERS and SCHEDULES. num_steps: sigmas before the final zero.
    w_stiff, w_con: strength and gate of ERK-Guid (arXiv 2603.03692); w_stiff = 0 is the plain solver.
    guide, guidance, guidance_interval: a second denoiser, its weight (1: off), and the sigmas (low, high] in
    which it acts. sigma_min, sigma_max, rho: of the schedule. dtype: of the state.
    s_churn, s_min, s_max, s_noise, fresh_noise: stochastic sampling (arXiv 2206.00364, algorithm 2).
    trace: called with a TracePoint after every step.

    Raises UserError for values that do not fit together; an unknown name fails with the valid ones listed.
    """
    problem = pose(
        net, guide, guidance, guidance_interval, solver, schedule, num_steps, sigma_min, sigma_max, rho, dtype
    )
    if w_stiff:
        check_paired(solver)
    if w_stiff and s_churn:
        raise UserError(
            f"ERK-Guid (w_stiff {w_stiff}) needs deterministic sampling, but s_churn is {s_churn}; "
            "set one of them to 0"
        )
    # The estimates are free: a trace sees them at w_stiff = 0 too, where the step is left as it is.
    wants_estimate = w_stiff != 0 or (trace is not None and problem.solver.paired)
    x = integrate(
        problem.denoiser,
        noise.to(dtype) * problem.levels[0],
        problem.levels,
        labels,
        problem.solver,
        CORRECTIONS["erk_guid" if wants_estimate else "none"](w_stiff, w_con),
        Churn(s_churn, s_min, s_max, s_noise, fresh_noise) if s_churn else None,
        trace,
    )
    return Sampled(x, problem.main.num_calls, problem.guiding.num_calls if problem.guiding else 0)


class Problem(NamedTuple):
    """What a solver is given: the guided denoiser, noise levels, and the counted networks behind it."""

    denoiser: Denoiser
    levels: Sequence[float]
    solver: Solver
    main: CountedDenoiser
    guiding: CountedDenoiser | None


def pose(
    net: Callable[..., Tensor],
    guide: Callable[..., Tensor] | None,
    guidance: float,
    guidance_interval: tuple[float, float],
    solver: str,
    schedule: str,
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    dtype: torch.dtype,
) -> Problem:
    """The options of `sample` that say which equation is solved at which noise levels, checked."""
    if solver not in SOLVERS:
        raise unknown_name("solver", solver, SOLVERS)
    if schedule not in SCHEDULES:
        raise unknown_name("schedule", schedule, SCHEDULES)
    if guidance != 1 and guide is None:
        raise UserError(f"guidance is {guidance} but there is no guide; pass guide=NET or guidance=1")
    main = CountedDenoiser(net)
    guiding = CountedDenoiser(guide) if guide is not None else None
    levels = sigmas(SCHEDULES[schedule], num_steps, sigma_min, sigma_max, rho, dtype)
    denoiser = guided(main, guiding or main, guidance, guidance_interval)
    return Problem(denoiser, levels, SOLVERS[solver], main, guiding)


def check_paired(solver: str) -> None:
    """Refuse ERK-Guid on a solver without an embedded pair."""
    if not SOLVERS[solver].paired:
        paired = ", ".join(name for name, row in SOLVERS.items() if row.paired)
        raise UserError(
            f"solver '{solver}' has no embedded pair for ERK-Guid; set w_stiff=0 or use: {paired}"
        )


sample = _state_only(sample_counted)
