"""Which ODE is solved, how, and at which noise levels: one frozen value from a spec to the loop."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.sampling.corrections import CORRECTIONS, W_CON, Correct, Correction, correcting
from erk_bench.sampling.guidance import GUIDANCES, Guidance, combining
from erk_bench.sampling.guided import EVERYWHERE, Denoiser, Interval, under_null_class
from erk_bench.sampling.loop import Churn, CountedDenoiser, Run, integrate
from erk_bench.sampling.native import (
    DEFAULT_RULES,
    LEAST_SHARE,
    DecidedByStep,
    NativeChoices,
    NativeDenoiser,
    NativeRules,
    NativeRun,
    StandIn,
    flow_shares,
    rules_of,
    shares_between,
)
from erk_bench.sampling.options import Instance, Part, choose
from erk_bench.sampling.schedules import SCHEDULES, Levels, Schedule, check_levels, sigmas
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.sampling.steps import Solver, StepFunction


def stepping(step: StepFunction) -> Solver:
    """The row of a step function of a user's own, of which nothing is known: it may do everything."""
    return Solver(step, order=0, history=sys.maxsize, paired=True, to_zero=True, contains_euler=True)


def solver_part(
    choice: str | Solver | StepFunction, options: Mapping[str, Any] | None = None, name: str = ""
) -> Part[Solver]:
    """A solver with its options: a name in SOLVERS, a row, or a step function. Raises UserError."""
    return choose("solver", SOLVERS, choice, options or {}, stepping, name)


def schedule_part(
    choice: str | Schedule | Levels, options: Mapping[str, Any] | None = None, name: str = ""
) -> Part[Schedule]:
    """A schedule with its options: a name in SCHEDULES, a row, or a function. Raises UserError."""
    return choose("schedule", SCHEDULES, choice, options or {}, Schedule, name)


def guidance_part(
    choice: str | Guidance | Callable[..., Tensor], options: Mapping[str, Any] | None = None, name: str = ""
) -> Part[Guidance]:
    """A guidance with its options: a name in GUIDANCES, a row, or a function (see `combining`)."""
    return choose("guidance", GUIDANCES, choice, options or {}, combining, name)


def correction_part(
    choice: str | Correction | Callable[..., Tensor],
    options: Mapping[str, Any] | None = None,
    name: str = "",
) -> Part[Correction]:
    """A correction with its options: a name in CORRECTIONS, a row, or a function (see `correcting`)."""
    return choose("correction", CORRECTIONS, choice, options or {}, correcting, name)


class Problem(NamedTuple):
    """An equation with its networks: the guided denoiser, the run's steps, and the counted networks.

    start: what unit noise is multiplied by.
    """

    denoiser: Denoiser
    run: Run
    main: CountedDenoiser
    guiding: CountedDenoiser | None
    start: float

    def evaluations(self, batch: int) -> tuple[float, float]:
        """Calls of the main and the guiding network; means over the batch where samples differ."""

        def of(net: CountedDenoiser | None) -> float:
            if net is None:
                return 0
            return net.num_calls if net.num_images == net.num_calls * batch else net.num_images / batch

        return of(self.main), of(self.guiding)


@dataclass(frozen=True, kw_only=True)
class Equation:
    """dx/dsigma = (x - D(x; sigma)) / sigma, its solver and noise levels, guidance of D, and correction.

    denoise_to_zero: a last step to zero after the last level; None is as the solver is published. afs:
    analytical first step. schedule: None is the solver's own. num_steps: noise levels from sigma_max to
    sigma_min. rho: of the schedule; None is the published one. levels_given: explicit noise levels instead
    of a schedule's. coordinates: "edm", x and sigma, or "native", a model's own (see sampling/native): its
    schedule is `flow` unless another is given. native: what is asked for there. weight, interval: of the
    guidance, which acts for sigma in (low, high], or between the model's own times. w_stiff, w_con: strength
    and gate of the correction; strength 0 is the plain solver. churn: stochastic sampling. dtype: of
    the state, in which the levels are computed too.
    Raises UserError where built of what does not fit together.
    """

    solver: Part[Solver] = solver_part("heun")
    denoise_to_zero: bool | None = None
    afs: bool = False
    schedule: Part[Schedule] | None = None
    num_steps: int = 32
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float | None = None
    levels_given: tuple[float, ...] | None = None
    guidance: Part[Guidance] = guidance_part("cfg")
    weight: float = 1.0
    interval: Interval = EVERYWHERE
    coordinates: str = "edm"
    native: NativeChoices = NativeChoices()
    correction: Part[Correction] = correction_part("erk_guid")
    w_stiff: float = 0.0
    w_con: float = W_CON
    churn: Churn = Churn()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        row, name = self.solver.row, self.solver.name
        self.native.check(self.coordinates)
        if self._measured:
            self.refuse_native(f"solver '{name}' with statistics")
        if self.coordinates == "native" and (self.afs or self.churn.s_churn):
            raise UserError(
                "afs and s_churn belong to x and sigma; leave them out, or leave out coordinates=native"
            )
        if self.native.sde and (name != "euler" or self.w_stiff):
            raise UserError(
                f"sde is {self.native.sde:g}: stochastic equations are solved by solver=euler without a "
                "correction; set these, or sde=0"
            )
        self.guidance.row.check_weight(self.guidance.name, self.weight)
        if row.adaptive and self.keeps_state:
            raise UserError(
                f"guidance '{self.guidance.name}' remembers earlier evaluations of a sample, and with solver "
                f"'{name}' every sample makes steps of its own; set {self.guidance.row.forgetting}, or "
                "choose a solver of fixed steps"
            )
        if len(self.levels) < row.min_steps:
            raise UserError(
                f"num_steps is {len(self.levels)}; solver '{name}' needs {row.min_steps} noise levels or more"
            )
        if self.w_stiff:
            self.check_corrected(self.correction)
            if self.churn.s_churn:
                raise UserError(
                    f"correction '{self.correction.name}' with w_stiff {self.w_stiff:g} needs deterministic "
                    f"sampling, but s_churn is {self.churn.s_churn:g}; set one of them to 0"
                )

    def refuse_native(self, what: str) -> None:
        """Refuse coordinates=native for what holds in x and sigma. Raises UserError."""
        if self.coordinates == "native":
            raise UserError(f"{what} holds in x and sigma; leave out coordinates=native")

    @property
    def _measured(self) -> set[str]:
        """The solver's options that were measured of a model's states."""
        allowed = self.solver.row.options
        return {name for name in self.solver.options if isinstance(allowed.get(name), Instance)}

    def check_corrected(self, correction: Part[Correction]) -> None:
        """Refuse a correction on a solver that does not have what it reads. Raises UserError."""
        row, name = self.solver.row, self.solver.name
        if correction.row.of_edm and self.coordinates == "native":
            fitting = ", ".join(
                name for name, row in CORRECTIONS.items() if not row.of_edm and name != "none"
            )
            raise UserError(
                f"the formula of correction '{correction.name}' holds in x and sigma, not with "
                f"coordinates=native; use another: {fitting}"
            )
        if correction.row.needs_pair and not row.paired:
            paired = ", ".join(name for name, row in SOLVERS.items() if row.paired)
            raise UserError(
                f"solver '{name}' has no embedded pair for correction '{correction.name}'; use no correction "
                f"(w_stiff=0), or one of these solvers: {paired}"
            )
        if correction.row.needs_euler and not row.contains_euler:
            fitting = ", ".join(name for name, row in SOLVERS.items() if row.contains_euler)
            raise UserError(
                f"correction '{correction.name}' compares a step with Euler's, which solver '{name}' does "
                f"not contain; use solver={fitting}, or correction=erk_guid"
            )

    @property
    def keeps_state(self) -> bool:
        """Whether an evaluation depends on earlier ones of the same batch, by the guidance's memory."""
        return self.guidance.row.keeps_state(self.guidance.options)

    @functools.cached_property
    def levels(self) -> tuple[float, ...]:
        """The noise levels above zero, falling, as floats rounded to dtype; shares of noise where in_flow."""
        if self.in_flow:
            return self._flow_levels(1)
        if self.levels_given is not None:
            return tuple(check_levels(self.levels_given))
        row = self.solver.row
        own = self.schedule or schedule_part(row.schedule)
        rho = self.rho if self.rho is not None else (row.rho if own.name == row.schedule else own.row.rho)
        return tuple(sigmas(own.bound(), self.num_steps, self.sigma_min, self.sigma_max, rho, self.dtype))

    @property
    def in_flow(self) -> bool:
        """Whether the levels are shares of noise, uniform in a model's own time."""
        chosen = self.schedule is None or self.schedule.name == "flow"
        return self.coordinates == "native" and self.levels_given is None and chosen

    def _flow_levels(self, data_time: int) -> tuple[float, ...]:
        if self.num_steps < 2:
            raise UserError(f"num_steps is {self.num_steps}; a schedule needs at least 2 steps")
        options = self.schedule.options if self.schedule else {}
        return tuple(flow_shares(self.num_steps, self.dtype, data_time, self.native.sde, **options))

    @property
    def run(self) -> Run:
        """The steps: a step function, how much past it reads, and the noise levels."""
        return self._run(self.levels)

    def _run(self, levels: tuple[float, ...], *, to_zero: bool = False, knows_zero: bool = False) -> Run:
        """to_zero: where nothing else is asked for. knows_zero: the slope at zero noise is known."""
        row = self.solver.row
        to_zero = to_zero or row.to_zero if self.denoise_to_zero is None else self.denoise_to_zero
        known = (*levels, 0.0) if to_zero and row.through_zero else levels
        step, least = self.solver.bound(known), LEAST_SHARE if knows_zero else 0.0
        return Run(step, row.history, levels, to_zero, self.afs, row.through_zero or knows_zero, least)

    @property
    def shares(self) -> bool:
        """Whether trajectories of other strengths and gates can be shared with this one's."""
        noisy = self.churn.s_churn or self.native.sde
        return self.correction.row.gated and not self.keeps_state and not noisy

    def count_evaluations(self, *, guided: bool, rules: NativeRules = DEFAULT_RULES) -> tuple[float, float]:
        """Evaluations of the main and the guiding network for one image, counted on a stand-in.

        It has one channel, and pixels enough for what guidances do with an image. What was measured of a
        model's states does not fit it, and is left out. rules: in native coordinates, those of the model.
        """
        if self._measured:
            options = {key: self.solver.options[key] for key in self.solver.options.keys() - self._measured}
            plain = dataclasses.replace(self, solver=self.solver._replace(options=options))
            return plain.count_evaluations(guided=guided, rules=rules)
        stand_in = StandIn(rules)
        problem = self.problem(stand_in, stand_in if guided else None)
        start = torch.full((1, 1, 64, 64), problem.run.levels[0], dtype=self.dtype)
        with torch.inference_mode():
            integrate(problem.denoiser, start, problem.run, None, self.correct(), self.churn)
        return problem.evaluations(1)

    def _native(self, rules: NativeRules) -> NativeRun:
        """How the equation is solved in the coordinates of a model with these rules."""
        if rules.discrete:
            if self.in_flow:
                raise UserError(
                    "coordinates=native of this network are noise levels of its own; set schedule=ddpm "
                    "(and num_steps=50, say)"
                )
            if self.native.sde:
                raise UserError("sde belongs to flow matching, and this network has noise levels of its own")
            first = self.levels[0]
            return NativeRun(True, self.levels, math.hypot(1, first), self.interval, False, False)
        if self.in_flow:
            levels = self._flow_levels(rules.data_time)
        else:
            levels = tuple(sigma / (rules.noise_scale + sigma) for sigma in self.levels)
        asked, row = self.native, self.solver.row
        if asked.last_step == "solver" and not (row.knows_zero or row.through_zero):
            fitting = ", ".join(name for name, row in SOLVERS.items() if row.knows_zero)
            raise UserError(
                f"solver '{self.solver.name}' makes no last step to zero noise; set last_step=euler, or "
                f"take one of these solvers: {fitting}"
            )
        euler_last = rules.euler_last if not asked.last_step else asked.last_step == "euler"
        by_step = rules.by_step if not asked.decides else asked.decides == "step"
        ends = asked.interval_ends or rules.interval_ends
        return NativeRun(
            False,
            levels,
            rules.noise_scale * levels[0],
            shares_between(self.interval, rules, ends, self.dtype),
            by_step,
            row.knows_zero and not euler_last,
            rules.noise_scale if self.native.sde else 0.0,
        )

    def correct(self, *, estimate: bool = False) -> Correct:
        """What happens to each step. estimate: the free estimates are made at strength 0 too."""
        wanted = self.w_stiff != 0 or (estimate and self.solver.row.paired)
        part = self.correction if wanted else correction_part("none")
        made: Correct = part.row.make(self.w_stiff, self.w_con, **part.options)
        return made

    def problem(self, net: Callable[..., Tensor], guide: Callable[..., Tensor] | None = None) -> Problem:
        """The equation of these networks, counting their calls; good for one trajectory of one batch.

        A guide that is the main network itself guides under its null class.
        Raises UserError where the guidance needs a guiding network and there is none.
        """
        row = self.guidance.row
        if guide is None and row.needs_guide(self.weight):
            raise UserError(
                f"guidance is {self.weight:g} with guidance_method '{self.guidance.name}' but there is no "
                "guide; pass guide=NET or guidance_method='cfg' with guidance=1"
            )
        native = None
        if self.coordinates == "native":
            native = self._native(rules_of(net))
            same = guide is net
            net = net if native.discrete else NativeDenoiser(net)
            if guide is not None:
                guide = net if same else guide if native.discrete else NativeDenoiser(guide)
        main = CountedDenoiser(net)
        guiding = None
        if guide is not None:
            guiding = CountedDenoiser(under_null_class(net) if guide is net else guide)
        run, interval = self.run, self.interval
        start, by_step = run.levels[0], False
        if native is not None:
            start, by_step = native.start, native.by_step
            run = self._run(native.levels, to_zero=True, knows_zero=native.knows_zero)
            run = run._replace(noise=native.noise)
            interval = native.interval
        within = (-math.inf, math.inf) if by_step else interval
        denoiser = row.make(main, guiding or main, self.weight, within, run.levels, **self.guidance.options)
        if by_step:
            denoiser = DecidedByStep(main, denoiser, interval, run.levels)
        return Problem(denoiser, run, main, guiding, start)
