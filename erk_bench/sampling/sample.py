"""`sample`: noise in, final state out; the Python API that notebooks and the generator share."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.sampling.corrections import W_CON, Correction
from erk_bench.sampling.equation import (
    Equation,
    correction_part,
    guidance_part,
    schedule_part,
    solver_part,
)
from erk_bench.sampling.guidance import Guidance
from erk_bench.sampling.guided import EVERYWHERE, count_classes
from erk_bench.sampling.loop import Churn, Trace, integrate
from erk_bench.sampling.native import NativeChoices
from erk_bench.sampling.options import Part, defaults_of
from erk_bench.sampling.schedules import Levels, Schedule
from erk_bench.sampling.seeds import SeededDraws, initial
from erk_bench.sampling.steps import Solver, StepFunction


class Shaped(Protocol):
    """What drawing needs to know of a denoiser; num_classes (or label_dim) too."""

    @property
    def img_channels(self) -> int: ...

    @property
    def img_resolution(self) -> int: ...


class Sampled(NamedTuple):
    """The final state, and how often each network was called (NFE) to reach it.

    Where samples choose their own steps, the mean of their evaluations.
    """

    x: Tensor
    nfe: float
    nfe_guide: float


def draw(
    seeds: Sequence[int], net: Shaped, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor | None]:
    """Noise and labels of each seed: unit normal float32 NCHW, one-hot [B, num_classes] or None.

    net: has img_channels, img_resolution, and num_classes or label_dim. device: whose generators draw, and
    where the result is; "cuda_emulated" draws the numbers of an NVIDIA GPU on the CPU.
    """
    shape = (net.img_channels, net.img_resolution, net.img_resolution)
    num_classes = count_classes(net)
    noise, classes = initial(SeededDraws(seeds, device), shape, num_classes)
    return noise, None if classes is None else F.one_hot(classes, num_classes).to(torch.float32)


def equation_from(
    *,
    solver: str | Solver | StepFunction = "heun",
    num_steps: int = 32,
    w_stiff: float = 0.0,
    w_con: float = W_CON,
    guidance: float = 1.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float | None = None,
    dtype: torch.dtype = torch.float32,
    schedule: str | Schedule | Levels | None = None,
    sigmas: Sequence[float] | None = None,
    denoise_to_zero: bool | None = None,
    afs: bool = False,
    correction: str | Correction | Callable[..., Tensor] = "erk_guid",
    correction_options: Mapping[str, Any] | None = None,
    guidance_method: str | Guidance | Callable[..., Tensor] = "cfg",
    guidance_options: Mapping[str, Any] | None = None,
    guidance_interval: tuple[float, float] = EVERYWHERE,
    coordinates: str = "edm",
    schedule_options: Mapping[str, Any] | None = None,
    interval_ends: str = "",
    decides: str = "",
    last_step: str = "",
    sde: float = 0.0,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    **solver_options: Any,
) -> Equation:
    """The equation of the options of `sample`, which explains them. Raises UserError."""
    known = list(inspect.signature(equation_from).parameters)[:-1]
    own = defaults_of(solver_part(solver).row)
    for name in solver_options:
        if name not in own:
            raise unknown_name("option of sample()", name, [*known, *own])
    return Equation(
        solver=solver_part(solver, solver_options),
        denoise_to_zero=denoise_to_zero,
        afs=afs,
        schedule=_schedule(schedule, schedule_options, coordinates),
        num_steps=num_steps,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        rho=rho,
        levels_given=None if sigmas is None else tuple(float(sigma) for sigma in sigmas),
        guidance=guidance_part(guidance_method, guidance_options),
        weight=guidance,
        interval=guidance_interval,
        coordinates=coordinates,
        native=NativeChoices(interval_ends, decides, last_step, sde),
        correction=correction_part(correction, correction_options),
        w_stiff=w_stiff,
        w_con=w_con,
        churn=Churn(s_churn, s_min, s_max, s_noise),
        dtype=dtype,
    )


def _schedule(
    choice: str | Schedule | Levels | None, options: Mapping[str, Any] | None, coordinates: str
) -> Part[Schedule] | None:
    """The schedule with its options; None is the solver's own, which has none but in native coordinates."""
    if choice is None and options:
        if coordinates != "native":
            raise UserError("schedule_options belong to a schedule; give schedule=NAME too")
        choice = "flow"
    return None if choice is None else schedule_part(choice, options)


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
    *,
    fresh_noise: Callable[[Tensor], Tensor] = torch.randn_like,
    trace: Trace | None = None,
    **options: Any,
) -> Sampled:
    """Sample from a denoiser by solving its probability-flow ODE; `erk_bench.sample` returns `.x` only.

    net: `net(x, sigma, labels) -> denoised`, NCHW. noise: unit normal NCHW, multiplied by the first sigma
    (see `draw`). labels: given to the networks as they are: one-hot [B, num_classes], class numbers [B], or
    None.
    solver: key of SOLVERS, or a step function of your own; its options (max_order, r, ...) are further
    keyword arguments. num_steps: number of sigmas, from sigma_max to sigma_min.
    w_stiff, w_con: strength and gate of ERK-Guid (arXiv 2603.03692); w_stiff = 0 is the plain solver, and
    w_con = 0 opens the gate wherever there is an estimate.
    guide, guidance: a second denoiser and its weight (1: off). The same network again guides under its null
    class: classifier-free guidance with one network.
    dtype: of the state.
    fresh_noise: draws noise like a state, for stochastic sampling. trace: called with a TracePoint after
    every step.

    Further options:
    schedule, rho, schedule_options: key of SCHEDULES, or a function, its exponent and its options; None is
    what the solver is published with. sigmas: explicit noise levels instead.
    denoise_to_zero: a last step to zero after sigma_min; None is as the solver is published. afs: analytical
    first step, which saves an evaluation.
    correction, correction_options: key of CORRECTIONS, or a function, used where w_stiff is not 0.
    guidance_method, guidance_options, guidance_interval: key of GUIDANCES, or a function, its options, and
    the sigmas (low, high] in which it acts.
    coordinates: "edm", x and sigma, or "native", a flow model's own state and time (see sampling/native.py):
    num_steps steps from pure noise to data, on the schedule `flow` with its options shift or timestep_shift;
    DiT's are its own noise levels, schedule="ddpm". guidance_interval is then in the model's own time.
    interval_ends ("[]", "()", "[)", "(]"), decides ("evaluation" or "step": whose time is compared with the
    interval), last_step ("solver" or "euler"): in native coordinates; "" is as the model's program does.
    sde: 0.04 solves the stochastic equation of SiT and REPA by solver="euler", whose last step starts there.
    s_churn, s_min, s_max, s_noise: stochastic sampling (arXiv 2206.00364, algorithm 2).

    Raises UserError for values that do not fit together; an unknown name fails with the valid ones listed.
    """
    equation = equation_from(
        solver=solver, num_steps=num_steps, w_stiff=w_stiff, w_con=w_con, guidance=guidance,
        sigma_min=sigma_min, sigma_max=sigma_max, rho=rho, dtype=dtype, **options,
    )  # fmt: skip
    return solve(equation, net, noise, labels, guide=guide, fresh_noise=fresh_noise, trace=trace)


@torch.inference_mode()
def solve(
    equation: Equation,
    net: Callable[..., Tensor],
    noise: Tensor,
    condition: Tensor | None = None,
    *,
    guide: Callable[..., Tensor] | None = None,
    fresh_noise: Callable[[Tensor], Tensor] = torch.randn_like,
    trace: Trace | None = None,
) -> Sampled:
    """Solve an equation from unit noise [B, C, H, W], which is multiplied by its first noise level."""
    problem = equation.problem(net, guide)
    x = integrate(
        problem.denoiser,
        noise.to(equation.dtype) * problem.start,
        problem.run,
        condition,
        # The estimates are free: a trace sees them at strength 0 too, where the step is left as it is.
        equation.correct(estimate=trace is not None),
        equation.churn,
        fresh_noise,
        trace,
    )
    return Sampled(x, *problem.evaluations(len(noise)))


P = ParamSpec("P")


def _state_only(function: Callable[P, Sampled]) -> Callable[P, Tensor]:
    """The same function returning the state alone; its signature shows the further options by name."""

    @functools.wraps(function)
    def state_only(*args: P.args, **options: P.kwargs) -> Tensor:
        return function(*args, **options).x

    own = list(inspect.signature(function).parameters.values())[:-1]
    more = inspect.signature(equation_from).parameters.values()
    named = {item.name for item in own}
    parameters = [*own, *(item for item in more if item.name not in named)]
    setattr(state_only, "__signature__", inspect.Signature(parameters, return_annotation="Tensor"))  # noqa: B010
    return state_only


sample = _state_only(sample_counted)
