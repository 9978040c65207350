"""What to compute, as frozen values that check themselves, and the identity of a run.

Every field is either identity (it changes the samples and enters `run_id`) or execution detail (it says
where, how fast or what to measure); the helper that declares a field makes it choose.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.fields import execution, extension, identity, identity_fields
from erk_bench.base.file_names import check_file_name

# Raised by every change that alters samples; records of different protocols are never mixed.
PROTOCOL = 1

# What is kept of the images: nothing but their features, block files, PNG files, or block files and an .npz.
SAMPLES = ("none", "blocks", "png", "npz")

MAX_SEEDS = 10_000_000  # of one run

# Guidances that weight 1 does not switch off (Guidance.off_at_one in sampling/guidance.py).
ACTS_AT_ONE = ("cfgpp",)


def _short(value: bool | int | float | str) -> str:
    return f"{value:g}" if type(value) is float else str(value)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


Options = tuple[tuple[str, bool | int | float | str], ...]


@dataclass(frozen=True, kw_only=True)
class WeightsSpec:
    """A file of weights: its address (see base/assets) and its sha256, "" while the file was never here.

    architecture: key of networks.sizes.SIZES, from which costs are known before the file is here.
    """

    path: str = execution()
    sha256: str = identity()
    architecture: str | None = execution(None)

    def __post_init__(self) -> None:
        _check(
            re.fullmatch("([0-9a-f]{64})?", self.sha256) is not None,
            f"sha256 of '{self.path}' is '{self.sha256}'; expected 64 hex digits",
        )


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(WeightsSpec):
    """A network: its file of weights, or code that gives it.

    own_code: the path is FILE.py:NAME of a user's own, and sha256 is of that file; options, checkpoint: what
    its function is given.
    """

    own_code: bool = extension(False)
    options: Options = extension(())
    checkpoint: WeightsSpec | None = extension(None)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The main network and how its final state becomes a uint8 image (key of DECODERS).

    vae, vae_config: weights and config.json of the decoder, for latent models. decoder_path, decoder_sha256:
    FILE.py:NAME of a decoder of a user's own, and the hash of its file.
    """

    name: str = identity()
    weights: NetworkSpec = identity()
    decoder: str = identity()
    decoder_path: str | None = execution(None)
    decoder_sha256: str = extension("")
    vae: WeightsSpec | None = extension(None)
    vae_config: WeightsSpec | None = extension(None)

    def __post_init__(self) -> None:
        check_file_name("model.name", self.name)


@dataclass(frozen=True, kw_only=True)
class SolverSpec:
    """The ODE solver (key of SOLVERS), its own options, and its stochastic churn (0: deterministic).

    options: those that differ from the solver's defaults, by name. denoise_to_zero: a last step from
    sigma_min to zero. afs: analytical first step, without an evaluation. path, sha256: here as in schedules,
    guidances and corrections, FILE.py:NAME or package.module:NAME of code of a user's own (base/own_code.py),
    and the hash of its file.
    """

    name: str = identity()
    options: Options = extension(())
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
            _check(0 <= value < math.inf, f"solver.{name} is {value}; it must be 0 or more, and finite")


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
        _check(
            2 <= self.num_steps <= 10_000,
            f"schedule.num_steps is {self.num_steps}; it must be 2 to 10000",
        )
        _check(
            0 < self.sigma_min < self.sigma_max < math.inf,
            f"schedule.sigma_min {self.sigma_min} and sigma_max {self.sigma_max}: "
            "need 0 < sigma_min < sigma_max",
        )
        _check(0.5 <= self.rho <= 100, f"schedule.rho is {self.rho}; it must be 0.5 to 100")


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
        _check(0 <= low < high, f"guidance.interval is [{low}, {high}]; need 0 <= low < high")
        _check(math.isfinite(self.weight), f"guidance.weight is {self.weight}; it must be finite")
        _check(
            self.weight == 1 or self.name != "none",
            f"guidance.weight is {self.weight} but the guidance is none; add guidance=cfg or "
            "guidance=autoguidance",
        )
        _check(
            not self.active or self.guide is not None or self.null_class,
            f"guidance '{self.name}' with weight {self.weight} needs a guiding network, and the model has "
            "none for it; choose guidance=none or a model that has one",
        )

    @property
    def active(self) -> bool:
        """Whether there is any guidance: it needs the guiding network."""
        return self.weight != 1 or self.name in ACTS_AT_ONE or self.path is not None

    @property
    def all_options(self) -> dict[str, bool | int | float | str]:
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
            _check(0 <= value < math.inf, f"correction.{name} is {value}; it must be 0 or more, and finite")
        _check(
            self.name != "none" or self.w_stiff == 0,
            f"correction.w_stiff is {self.w_stiff} but the correction is none; add correction=erk_guid, or "
            "another of those that 'erk-bench run --help' lists",
        )
        if self.name == "none":  # no gate: the plain solver is one run, whatever w_con says
            object.__setattr__(self, "w_con", 0.0)


@dataclass(frozen=True, kw_only=True)
class MetricsSpec:
    """What to measure: keys of METRICS, against which reference, with how many jackknife groups.

    reference: key of REFERENCES, or the address of a file of statistics. real_features: address of a file
    with the features of real images, for metrics that need more than statistics (precision, recall, KID).
    """

    names: tuple[str, ...] = execution()
    reference: str = execution()
    real_features: str | None = execution(None)
    num_groups: int = execution(50)
    kid_subsets: int = execution(100)
    kid_subset_size: int = execution(1000)

    def __post_init__(self) -> None:
        _check(len(self.names) > 0, "metrics.names is empty; name at least one metric")
        _check(self.kid_subsets >= 1, f"metrics.kid_subsets is {self.kid_subsets}; need at least 1")
        _check(
            self.kid_subset_size >= 2,
            f"metrics.kid_subset_size is {self.kid_subset_size}; need at least 2",
        )
        _check(self.num_groups >= 2, f"metrics.num_groups is {self.num_groups}; need at least 2")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run: everything that decides its samples, and how to compute and measure them.

    seeds: "FIRST-LAST", both included. dtype: of the sampler's state. network_dtype: of the raw network.
    draw_device: whose generators draw the noise (CPU and CUDA numbers differ). class_label: null draws the
    label from the seed. compile: torch.compile the networks (CUDA). block_size: seeds a file, and the
    network's batch. samples: what is kept of the images (key of SAMPLES). device: "auto" takes CUDA if there
    is any. workers: local processes; null is one per GPU, or per CPU core. offline: never use the network.
    out: folder of all runs.
    """

    model: ModelSpec = identity()
    solver: SolverSpec = identity()
    schedule: ScheduleSpec = identity()
    guidance: GuidanceSpec = identity()
    correction: CorrectionSpec = identity()
    dtype: str = identity("float32")
    network_dtype: str = identity("float32")
    draw_device: str = identity("cpu")
    class_label: int | None = identity(None)
    compile: bool = extension(False)
    metrics: MetricsSpec = execution()
    seeds: str = execution("0-999")
    block_size: int = execution(100)
    samples: str = execution("blocks")
    device: str = execution("auto")
    workers: int | None = execution(None)
    offline: bool = execution(False)
    out: str = execution("results/runs")

    def __post_init__(self) -> None:
        for name, known in (
            ("dtype", ("float32", "float64")),
            ("network_dtype", ("float32", "float16", "bfloat16")),
            ("draw_device", ("cpu", "cuda")),
            ("device", ("auto", "cpu", "cuda")),
            ("samples", SAMPLES),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        _check(1 <= self.block_size <= 65_536, f"block_size is {self.block_size}; it must be 1 to 65536")
        _check(self.out != "", "out is empty; name a folder, for example out=results/runs")
        _check(
            self.workers is None or self.workers >= 1,
            f"workers is {self.workers}; it must be 1 or more, or null for one per device",
        )
        self.seed_range  # noqa: B018 - checks the text

    @property
    def seed_range(self) -> range:
        """The seeds as a range."""
        match = re.fullmatch("([0-9]{1,18})-([0-9]{1,18})", self.seeds)
        if match is None or int(match[1]) > int(match[2]):
            raise UserError(f"seeds is '{self.seeds}'; expected FIRST-LAST, for example 0-1999")
        seeds = range(int(match[1]), int(match[2]) + 1)
        # Generators take seeds modulo 2^32: larger ones would repeat earlier images.
        if seeds[-1] >= 2**32 or len(seeds) > MAX_SEEDS:
            raise UserError(f"seeds is '{self.seeds}'; they must be below 2^32, at most {MAX_SEEDS:,} a run")
        return seeds

    @property
    def baseline(self) -> RunSpec:
        """The same run without its correction."""
        return dataclasses.replace(self, correction=CorrectionSpec(name="none"))

    @property
    def own_code(self) -> tuple[str, ...]:
        """The addresses of code of a user's own that sampling imports."""
        parts = (self.solver, self.schedule, self.guidance, self.correction)
        networks = [item.path for item in self.networks if item.own_code]
        paths = [part.path for part in parts] + [self.model.decoder_path]
        return (*networks, *(path for path in paths if path is not None))

    @property
    def networks(self) -> tuple[NetworkSpec, ...]:
        """The main network, and the guiding one where there is one."""
        guide = self.guidance.guide if self.guidance.active else None
        return (self.model.weights,) if guide is None else (self.model.weights, guide)

    @property
    def guided(self) -> bool:
        """Whether there is anything to guide with, for a guidance that is active."""
        return self.guidance.guide is not None or self.guidance.null_class

    @property
    def weights(self) -> tuple[WeightsSpec, ...]:
        """Every file of weights that sampling needs."""
        networks = [item.checkpoint if item.own_code else item for item in self.networks]
        found = (*networks, self.model.vae, self.model.vae_config)
        return tuple(item for item in found if item is not None)

    @property
    def unknown_weights(self) -> tuple[WeightsSpec, ...]:
        """Those whose hash is not known yet."""
        return tuple(item for item in self.weights if not item.sha256)

    @property
    def run_id(self) -> str:
        """The slug and a hash of the identity fields: the name of the run's folder."""
        return f"{self.slug}-{self.digest[:10]}"

    @property
    def slug(self) -> str:
        """What the run is, readable and not quite unique."""
        parts = [self.model.name, f"{self.solver.name}{self.schedule.num_steps}"]
        parts += [f"{name}{value}" for name, value in self.solver.options]
        if self.guidance.active:
            parts.append(f"{self.guidance.name}{self.guidance.weight:g}")
            parts += [f"{name}{_short(value)}" for name, value in self.guidance.all_options.items()]
        if self.correction.w_stiff:
            parts.append(f"{self.correction.name}{self.correction.w_stiff:g}c{self.correction.w_con:g}")
            parts += [f"{name}{_short(value)}" for name, value in self.correction.options]
        slug = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part) for part in parts)
        return slug[:100]

    @property
    def digest(self) -> str:
        """sha256 over the identity fields and PROTOCOL.

        Raises UserError while a file of weights was never here, so that nobody knows its hash.
        """
        for unknown in self.unknown_weights:
            raise UserError(
                f"the sha256 of '{unknown.path}' is not known yet, so this run has no identity; run "
                "'erk-bench fetch' with the same settings, or copy the lock file of where it was fetched"
            )
        return digest_of(identity_fields(self))


def digest_of(fields: Mapping[str, Any]) -> str:
    """sha256 over the identity fields of a run, as plain values, and PROTOCOL."""
    content = {"protocol": PROTOCOL, **fields}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
