"""The parts of a run: networks, solver, schedule, guidance, correction."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from erk_bench.base.fields import execution, extension, identity
from erk_bench.base.file_names import check_file_name
from erk_bench.spec.identity import check

# Guidances that weight 1 does not switch off (Guidance.off_at_one in sampling/guidance.py).
ACTS_AT_ONE = ("cfgpp", "fdg", "higs", "c2fg")
# Those of them that need no guiding network there (Guidance.alone_at_one).
ALONE_AT_ONE = ("higs",)

OptionValue = bool | int | float | str | tuple[float, ...]
Options = tuple[tuple[str, OptionValue], ...]


@dataclass(frozen=True, kw_only=True)
class WeightsSpec:
    """A file of weights: its address (see base/assets) and its sha256, "" while the file was never here.

    architecture: key of networks.sizes.SIZES, from which costs are known before the file is here.
    """

    path: str = execution()
    sha256: str = identity()
    architecture: str | None = execution(None)

    def __post_init__(self) -> None:
        check(
            re.fullmatch("([0-9a-f]{64})?", self.sha256) is not None,
            f"sha256 of '{self.path}' is '{self.sha256}'; expected 64 hex digits",
        )


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(WeightsSpec):
    """A network: its file of weights, or code that gives it.

    own_code: the path is FILE.py:NAME of a user's own, and sha256 is of that file; options, checkpoint: what
    its function is given. family: of a file of a diffusion transformer's weights (key of networks.FAMILIES);
    config, scheduler: the settings files of a network of diffusers and of its scheduler; options: what is
    known of either.
    """

    own_code: bool = extension(False)
    family: str = extension("")
    options: Options = extension(())
    checkpoint: WeightsSpec | None = extension(None)
    config: WeightsSpec | None = extension(None)
    scheduler: WeightsSpec | None = extension(None)

    @property
    def files(self) -> tuple[WeightsSpec, ...]:
        """Its files of weights and of settings."""
        found = (self.checkpoint if self.own_code else self, self.config, self.scheduler)
        return tuple(item for item in found if item is not None)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The main network and how its final state becomes a uint8 image (key of DECODERS).

    vae, vae_config: weights and config.json of the decoder, for latent models. decoder_path, decoder_sha256:
    FILE.py:NAME of a decoder of a user's own, and the hash of its file. latent_mean, latent_std: the decoder
    is given x * std + mean, one number for each channel or one for all; () leaves x as it is.
    """

    name: str = identity()
    weights: NetworkSpec = identity()
    decoder: str = identity()
    decoder_path: str | None = execution(None)
    decoder_sha256: str = extension("")
    vae: WeightsSpec | None = extension(None)
    vae_config: WeightsSpec | None = extension(None)
    latent_mean: tuple[float, ...] = extension(())
    latent_std: tuple[float, ...] = extension(())

    def __post_init__(self) -> None:
        check_file_name("model.name", self.name)
        for name in ("latent_mean", "latent_std"):
            values = getattr(self, name)
            check(all(map(math.isfinite, values)), f"model.{name} is {list(values)}; give finite numbers")


@dataclass(frozen=True, kw_only=True)
class SolverSpec:
    """The ODE solver (key of SOLVERS), its own options, and its stochastic churn (0: deterministic).

    options: those that differ from the solver's defaults, by name. statistics: file of statistics of the
    model, for dpm_solver_v3. denoise_to_zero: a last step from sigma_min to zero. afs: analytical first step,
    without an evaluation. path, sha256: here as in schedules, guidances and corrections, FILE.py:NAME or
    package.module:NAME of code of a user's own (base/own_code.py), and the hash of its file.
    """

    name: str = identity()
    options: Options = extension(())
    statistics: WeightsSpec | None = extension(None)
    denoise_to_zero: bool = extension(True)
    afs: bool = extension(False)
    path: str | None = execution(None)
    sha256: str = extension("")
    s_churn: float = identity(0.0)
    s_min: float = identity(0.0)
    s_max: float = identity(math.inf)
    s_noise: float = identity(1.0)

    def __post_init__(self) -> None:
        for name in ("s_churn", "s_min", "s_noise"):
            value = getattr(self, name)
            check(0 <= value < math.inf, f"solver.{name} is {value}; it must be 0 or more, and finite")


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """The noise levels (key of SCHEDULES), from sigma_max to sigma_min, then zero.

    sigmas: explicit noise levels above zero, falling; then the schedule is called "sigmas" and the other
    fields say what they are.
    """

    name: str = identity()
    num_steps: int = identity()
    sigma_min: float = identity()
    sigma_max: float = identity()
    rho: float = identity()
    sigmas: tuple[float, ...] = extension(())
    options: Options = extension(())
    path: str | None = execution(None)
    sha256: str = extension("")

    def __post_init__(self) -> None:
        check(
            2 <= self.num_steps <= 10_000,
            f"schedule.num_steps is {self.num_steps}; it must be 2 to 10000",
        )
        check(
            0 < self.sigma_min < self.sigma_max < math.inf,
            f"schedule.sigma_min {self.sigma_min} and sigma_max {self.sigma_max}: "
            "need 0 < sigma_min < sigma_max",
        )
        check(0.5 <= self.rho <= 100, f"schedule.rho is {self.rho}; it must be 0.5 to 100")


@dataclass(frozen=True, kw_only=True)
class NativeSpec:
    """What is done otherwise than a flow model's own program does; "" is as it does (sampling/native.py).

    interval_ends: which ends belong to the guidance's interval: "[]", "()", "[)" or "(]". decides: whose time
    is compared with it, that of each "evaluation" or that at which a "step" starts. last_step: made by the
    "solver" or by Euler's method, "euler". sde: of the stochastic equation, the share of noise at which its
    last step starts; 0 is the ODE.
    """

    interval_ends: str = extension("")
    decides: str = extension("")
    last_step: str = extension("")
    sde: float = extension(0.0)


@dataclass(frozen=True, kw_only=True)
class GuidanceSpec:
    """Model guidance (key of GUIDANCES), its weight, sigma interval (low, high] and guiding network.

    null_class: instead of a guiding network, the main one guides under its null class.
    eta, norm_threshold, momentum: options of apg; 0 where the guidance has none. options: those of others.
    """

    name: str = identity()
    weight: float = identity(1.0)
    interval: tuple[float, float] = identity((0.0, math.inf))
    guide: NetworkSpec | None = identity(None)
    null_class: bool = extension(False)
    eta: float = extension(0.0)
    norm_threshold: float = extension(0.0)
    momentum: float = extension(0.0)
    options: Options = extension(())
    path: str | None = execution(None)
    sha256: str = extension("")

    def __post_init__(self) -> None:
        low, high = self.interval
        check(0 <= low < high, f"guidance.interval is [{low}, {high}]; need 0 <= low < high")
        check(math.isfinite(self.weight), f"guidance.weight is {self.weight}; it must be finite")
        check(
            self.weight == 1 or self.name != "none",
            f"guidance.weight is {self.weight} but the guidance is none; add guidance=cfg or "
            "guidance=autoguidance",
        )
        check(
            not self.needs_guide or self.guide is not None or self.null_class,
            f"guidance '{self.name}' with weight {self.weight} needs a guiding network, and the model has "
            "none for it; choose guidance=none or a model that has one",
        )

    @property
    def active(self) -> bool:
        """Whether there is any guidance."""
        return self.weight != 1 or self.name in ACTS_AT_ONE or self.path is not None

    @property
    def needs_guide(self) -> bool:
        """Whether it needs the guiding network."""
        return self.active and (self.weight != 1 or self.name not in ALONE_AT_ONE)

    @property
    def all_options(self) -> dict[str, OptionValue]:
        """The guidance's own options that differ from their default, by name."""
        found = {"eta": self.eta, "norm_threshold": self.norm_threshold, "momentum": self.momentum}
        return {**{name: value for name, value in found.items() if value != 0}, **dict(self.options)}


@dataclass(frozen=True, kw_only=True)
class CorrectionSpec:
    """The correction (key of CORRECTIONS) with its strength and gate."""

    name: str = identity()
    w_stiff: float = identity(0.0)
    w_con: float = identity(0.5)
    options: Options = extension(())
    path: str | None = execution(None)
    sha256: str = extension("")

    def __post_init__(self) -> None:
        for name in ("w_stiff", "w_con"):
            value = getattr(self, name)
            check(0 <= value < math.inf, f"correction.{name} is {value}; it must be 0 or more, and finite")
        check(
            self.name != "none" or self.w_stiff == 0,
            f"correction.w_stiff is {self.w_stiff} but the correction is none; add correction=erk_guid, or "
            "another of those that 'erk-bench run --help' lists",
        )
        if self.name == "none":  # no gate: the plain solver is one run, whatever w_con says
            object.__setattr__(self, "w_con", 0.0)
