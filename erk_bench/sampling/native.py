"""A flow model's own coordinates: its state x_t = (1 - u) data + u noise at a share u of noise, from 1 to 0.

There dx_t/du = (x_t - D) / u, the equation of x and sigma over again: every solver, guidance and correction
serves, and pure noise (u = 1, where sigma is infinite) is a level like others. Steps, and so few-step
results and the estimates of ERK-Guid, differ from those in x and sigma, except Euler's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.transfers import number_on
from erk_bench.sampling.guided import EVERYWHERE, Denoiser, Interval, begin_step, level_of

COORDINATES = ("edm", "native")
ENDS = ("[]", "()", "[)", "(]")  # of an interval of guidance in the model's own time
LAST_STEPS = ("solver", "euler")
DECIDES = ("evaluation", "step")
# At lower shares a slope is told by an image so far ahead: at zero noise it could not be told by the image.
LEAST_SHARE = 2.0**-6


class NativeRules(Protocol):
    """How the program of a model samples.

    data_time: the model's own time of data, 1 (t = 1 - u) or 0 (t = u). noise_scale: standard deviation of
    noise at u = 1. discrete: whether it has noise levels of its own in place of a time; its state is then x,
    and it starts at noise * sqrt(1 + sigma^2). interval_ends: which ends belong to an interval of guidance.
    by_step: whether the time at which a step starts decides on guidance. euler_last: whether the last step is
    Euler's.
    """

    @property
    def data_time(self) -> int: ...

    @property
    def noise_scale(self) -> float: ...

    @property
    def discrete(self) -> bool: ...

    @property
    def interval_ends(self) -> str: ...

    @property
    def by_step(self) -> bool: ...

    @property
    def euler_last(self) -> bool: ...


class NativeChoices(NamedTuple):
    """What is asked for instead of what the model's program does; "" is as it does.

    interval_ends: one of ENDS. decides: one of DECIDES, whose time is compared with the interval.
    last_step: one of LAST_STEPS. sde: 0 is the ODE; above, it is the reverse stochastic equation whose last
    step, without noise, starts at this share of noise (SiT, arXiv 2401.08740, with w = u).
    """

    interval_ends: str = ""
    decides: str = ""
    last_step: str = ""
    sde: float = 0.0

    def check(self, coordinates: str) -> None:
        """Refuse unknown choices, and any in other coordinates."""
        if coordinates not in COORDINATES:
            raise unknown_name("coordinates", coordinates, COORDINATES)
        for name, known in (("interval_ends", ENDS), ("decides", DECIDES), ("last_step", LAST_STEPS)):
            value = getattr(self, name)
            if value and value not in known:
                raise unknown_name(name, value, known)
            if value and coordinates != "native":
                raise UserError(
                    f"{name} is '{value}', which belongs to coordinates=native; add that, or leave it out"
                )
        if not 0 <= self.sde < 1:
            raise UserError(f"sde is {self.sde:g}; it must be a share of noise below 1, such as 0.04, or 0")
        if self.sde and coordinates != "native":
            raise UserError(
                f"sde is {self.sde:g}, which belongs to coordinates=native; add that, or leave it out"
            )


def rules_of(net: object) -> NativeRules:
    """How a model's program samples. Raises UserError for a network that has no coordinates of its own."""
    rules: NativeRules | None = getattr(net, "native_rules", None)
    if rules is None:
        raise UserError(
            f"coordinates=native needs a flow model, with native_rules and native_slope (docs/models.md); "
            f"a network of class {type(net).__name__} has none: leave coordinates out"
        )
    return rules


class NativeDenoiser:
    """A flow model as a denoiser of its own state, whose noise level is the share u of noise."""

    def __init__(self, net: Callable[..., Tensor]) -> None:
        rules_of(net)
        self._slope: Callable[..., Tensor] = getattr(net, "native_slope")  # noqa: B009 - of any class
        self.num_classes: int = getattr(net, "num_classes", 0)
        self.guided_channels: int | None = getattr(net, "guided_channels", None)

    def __call__(self, x: Tensor, share: Tensor | float, condition: Tensor | None = None) -> Tensor:
        share = number_on(share, x.dtype, x.device)
        ahead = level_of(share.clamp(min=LEAST_SHARE), x)
        return x - ahead * self._slope(x, share, condition)


def flow_shares(
    num_steps: int,
    dtype: torch.dtype,
    data_time: int = 1,
    last: float = 0.0,
    *,
    shift: float = 1.0,
    timestep_shift: float = 1.0,
) -> list[float]:
    """The shares of noise at which num_steps steps begin, from 1 down; the last step ends at 0.

    last: where the last one begins, 0 for a step like the others. Uniform in time, then
    u' = a u / (1 + (a - 1) u) with a = shift / timestep_shift. They are computed in dtype and in the model's
    own time, as programs do: steps of theirs fall on the same numbers.
    """
    start, stop = (0, 1 - last) if data_time else (1, last)
    t = torch.linspace(start, stop, num_steps + (not last), dtype=dtype, device="cpu")
    factor = timestep_shift / shift if data_time else shift / timestep_shift
    if factor != 1:
        t = factor * t / (1 + (factor - 1) * t)
    t = t.double()
    return (1 - t if data_time else t)[:num_steps].tolist()


def shares_between(interval: Interval, rules: NativeRules, ends: str, dtype: torch.dtype) -> Interval:
    """The shares (low, high] of an interval in the model's own time, whose ends are rounded to dtype."""
    if interval == EVERYWHERE:
        return -math.inf, math.inf  # zero noise too
    low, high = (torch.tensor(end, dtype=dtype).double().item() for end in interval)
    closed_low, closed_high = ends[0] == "[" or low <= 0, ends[1] == "]" or high >= 1
    if rules.data_time:
        low, high, closed_low, closed_high = 1 - high, 1 - low, closed_high, closed_low
    return (
        math.nextafter(low, -math.inf) if closed_low else low,
        high if closed_high else math.nextafter(high, -math.inf),
    )


class PlainRules(NamedTuple):
    """Rules as values; the defaults are SiT's."""

    data_time: int = 1
    noise_scale: float = 1.0
    discrete: bool = False
    interval_ends: str = "[]"
    by_step: bool = False
    euler_last: bool = False


DEFAULT_RULES: NativeRules = PlainRules()


class StandIn:
    """A network that does nothing, to count evaluations of."""

    def __init__(self, rules: NativeRules) -> None:
        self.native_rules = rules

    def __call__(self, x: Tensor, at: Tensor | float, condition: Tensor | None = None) -> Tensor:
        return x * 0.5

    native_slope = __call__


class NativeRun(NamedTuple):
    """An equation in the coordinates of a model.

    discrete: they are x and sigma at noise levels of its own. levels: where steps begin, above zero. start:
    what unit noise is multiplied by. interval: of the guidance, (low, high] of levels. by_step: whether the
    level at which a step starts decides on guidance. knows_zero: the solver makes the last step too. noise:
    what fresh noise is multiplied by, 0 for the ODE.
    """

    discrete: bool
    levels: tuple[float, ...]
    start: float
    interval: Interval
    by_step: bool
    knows_zero: bool
    noise: float = 0.0


class DecidedByStep:
    """Guided where a step starts within the interval, the main denoiser alone in other steps."""

    def __init__(self, main: Denoiser, guided: Denoiser, interval: Interval, levels: Sequence[float]) -> None:
        self._main, self._guided = main, guided
        self._inside = [interval[0] < level <= interval[1] for level in levels]
        self._now = main

    def begin_step(self, index: int) -> None:
        """The step of this number begins."""
        self._now = self._guided if self._inside[index] else self._main
        begin_step(self._now, index)

    def __call__(self, x: Tensor, share: float | Tensor, condition: Tensor | None) -> Tensor:
        return self._now(x, share, condition)
