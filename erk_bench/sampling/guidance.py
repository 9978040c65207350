"""Model guidance by name: the table of guidances, what its rows say, and rows of functions of one's own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.sampling.guided import Denoiser, Interval, level_of, plain, within
from erk_bench.sampling.guided_bands import fdg
from erk_bench.sampling.guided_history import cfg_oec, higs
from erk_bench.sampling.guided_parts import apg, cfg_zero_star, tcfg
from erk_bench.sampling.guided_weights import UNITS, c2fg, cfgpp, fitted_cfg, mambo_g, power_law
from erk_bench.sampling.options import LEVELS, Allowed, Numbers, Several

# combine(x, sigma, main, guide, weight, **options): the state, and two predictions of the denoised image.
Combine = Callable[..., Tensor]


def combining(combine: Combine) -> Guidance:
    """The row of a function combine(x, sigma, main, guide, weight, **options) -> denoised, all NCHW.

    Its options are keyword-only arguments with defaults. sigma is a number, or [B, 1, 1, 1] where each sample
    has its own. An argument `levels` is given the run's noise levels. Weight 1 does not switch it off.
    """
    wants_levels = LEVELS in inspect.signature(combine).parameters

    @functools.wraps(combine)
    def make(
        main: Denoiser,
        guiding: Denoiser,
        weight: float,
        interval: Interval,
        levels: Sequence[float],
        **options: Any,
    ) -> Denoiser:
        own = {**options, LEVELS: tuple(levels)} if wants_levels else options

        def both(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
            return combine(x, level_of(sigma, x), denoised, other, weight, **own)

        return within(interval, main, guiding, both)

    return Guidance("unconditional", make, off_at_one=False)


class GuidanceMemory(NamedTuple):
    """What makes a guidance remember earlier evaluations of a batch: an option, where it is not `none`."""

    option: str
    none: float


class Guidance(NamedTuple):
    """A row of GUIDANCES.

    role: which of a model's guiding networks it takes. make(main, guiding, weight, interval, levels,
    **options) is the guided denoiser of a run at these noise levels (decreasing, above zero). weights,
    options: what its weight and its own options may be. off_at_one: whether weight 1 is the main denoiser
    alone (spec.ACTS_AT_ONE lists those where it is not). alone_at_one: whether it acts at weight 1 without a
    guiding network (spec.ALONE_AT_ONE). memory: what makes an evaluation depend on earlier ones. title: as
    tables call it, where that is not its name.
    """

    role: str | None
    make: Callable[..., Denoiser]
    weights: Numbers = Numbers()
    options: Mapping[str, Allowed] = {}
    off_at_one: bool = True
    alone_at_one: bool = False
    memory: GuidanceMemory | None = None
    title: str = ""

    @property
    def function(self) -> Callable[..., Denoiser]:
        """The function that makes the guided denoiser."""
        return self.make

    def needs_guide(self, weight: float) -> bool:
        """Whether it needs the guiding network at this weight."""
        return weight != 1 or not (self.off_at_one or self.alone_at_one)

    def keeps_state(self, options: Mapping[str, Any]) -> bool:
        """Whether an evaluation with these options depends on earlier ones of the same batch."""
        if self.memory is None:
            return False
        default = inspect.signature(self.make).parameters[self.memory.option].default
        return bool(options.get(self.memory.option, default) != self.memory.none)

    @property
    def forgetting(self) -> str:
        """The setting with which it remembers nothing."""
        return f"{self.memory.option}={self.memory.none:g}" if self.memory else ""

    def check_weight(self, name: str, weight: float) -> None:
        """Refuse a weight that this guidance, called `name`, does not take."""
        if not self.weights.holds(weight):
            raise UserError(
                f"guidance.weight is {weight:g}; with guidance '{name}' it must be {self.weights}"
            )


_PREDICTIONS = ("denoised", "velocity", "slope")

# Model guidance by name.
GUIDANCES: dict[str, Guidance] = {
    "none": Guidance(None, plain, weights=Numbers(1, 1)),
    "cfg": Guidance("unconditional", plain, title="CFG"),
    "autoguidance": Guidance("weaker", plain),
    "cfgpp": Guidance("unconditional", cfgpp, weights=Numbers(0, 1), off_at_one=False, title="CFG++"),
    "apg": Guidance(
        "unconditional", apg, memory=GuidanceMemory("momentum", 0.0), title="APG",
        options={
            "eta": Numbers(0, 1), "norm_threshold": Numbers(0), "momentum": Numbers(-1, 1),
            "form": ("paper", "diffusers"),
        },
    ),
    "fitted_cfg": Guidance("unconditional", fitted_cfg, weights=Numbers(0), title="Fitted CFG"),
    "power_law": Guidance(
        "unconditional", power_law, options={"alpha": Numbers(), "units": tuple(UNITS)},
        title="Power-law CFG",
    ),
    "cfg_zero_star": Guidance(
        "unconditional", cfg_zero_star, options={"space": _PREDICTIONS, "zero_steps": range(10_001)},
        title="CFG-Zero*",
    ),
    "tcfg": Guidance("unconditional", tcfg, title="TCFG"),
    "fdg": Guidance(
        "unconditional", fdg, off_at_one=False, title="FDG",
        options={"coarse": Several(Numbers(), 0, 5), "parallel": Several(Numbers(), 0, 6)},
    ),
    "cfg_oec": Guidance(
        "unconditional", cfg_oec, memory=GuidanceMemory("tau", -1.0), title="CFG-OEC",
        options={"tau": Numbers(-1, 1), "mode": ("hard", "blend")},
    ),
    "higs": Guidance(
        "unconditional", higs, off_at_one=False, alone_at_one=True, memory=GuidanceMemory("strength", 0.0),
        options={
            "strength": Numbers(), "alpha": Numbers(0, 1), "eta": Numbers(), "cutoff": Numbers(-1),
            "sharpness": Numbers(0), "t_min": Numbers(0, 1), "t_max": Numbers(0, 1),
        },
        title="HiGS",
    ),
    "c2fg": Guidance(
        "unconditional", c2fg, off_at_one=False, options={"rate": Numbers(-100, 100)}, title="C2FG"
    ),
    "mambo_g": Guidance("unconditional", mambo_g, options={"alpha": Numbers(0)}, title="MAMBO-G"),
}  # fmt: skip
