"""One run of a sampler, from noise to images and their features."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.fields import execution, extension, identity, identity_fields
from erk_bench.spec.identity import digest_of
from erk_bench.spec.metrics import MetricsSpec
from erk_bench.spec.parts import (
    CorrectionSpec,
    GuidanceSpec,
    ModelSpec,
    NativeSpec,
    NetworkSpec,
    OptionValue,
    ScheduleSpec,
    SolverSpec,
    WeightsSpec,
)
from erk_bench.spec.work import Work

# What is kept of the images: nothing but their features, block files, PNG files, or block files and an .npz.
SAMPLES = ("none", "blocks", "png", "npz")

# Arithmetic of networks, decoder and detectors (rows of NUMERICS in runs/numerics.py).
NUMERICS = ("strict", "published", "fast")

# Each is a source of its own, in the identity too: numbers of cuda_emulated differ from CUDA's in last bits.
DRAW_DEVICES = ("cpu", "cuda", "cuda_emulated")


def _short(value: OptionValue) -> str:
    if isinstance(value, tuple):
        return "_".join(map(_short, value))
    return f"{value:g}" if type(value) is float else str(value)


@dataclass(frozen=True, kw_only=True)
class RunSpec(Work):
    """One run: everything that decides its samples, and how to compute and measure them.

    seeds: "FIRST-LAST", both included. dtype: of the sampler's state. network_dtype: of the raw network.
    coordinates: what the solver steps in: "edm", x and sigma, or "native", a flow model's own; native: how.
    draw_device: whose generators draw noise and labels (CPU and CUDA numbers differ); cuda_emulated computes
    an NVIDIA GPU's on the CPU. class_label: null draws the label from the seed. compile: torch.compile the
    networks (CUDA). numerics: precision and kernels on a GPU (key of NUMERICS). block_size: seeds a file, and
    the network's batch. samples: what is kept of the images (key of SAMPLES). device: "auto" takes CUDA if
    there is any. workers: local processes; null is one per GPU, or per CPU core. offline: never use the
    network. out: folder of all runs.
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
    coordinates: str = extension("edm")
    native: NativeSpec = extension(NativeSpec())
    compile: bool = extension(False)
    numerics: str = extension("strict")
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
            ("draw_device", DRAW_DEVICES),
            ("numerics", NUMERICS),
            ("samples", SAMPLES),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        self.check_work()

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
        guide = self.guidance.guide if self.guidance.needs_guide else None
        return (self.model.weights,) if guide is None else (self.model.weights, guide)

    @property
    def guided(self) -> bool:
        """Whether there is anything to guide with, for a guidance that is active."""
        return self.guidance.guide is not None or self.guidance.null_class

    @property
    def weights(self) -> tuple[WeightsSpec, ...]:
        """Every file of weights that sampling needs."""
        networks = [file for item in self.networks for file in item.files]
        found = (*networks, self.model.vae, self.model.vae_config, self.solver.statistics)
        return tuple(item for item in found if item is not None)

    @property
    def unknown_weights(self) -> tuple[WeightsSpec, ...]:
        """Those whose hash is not known yet."""
        return tuple(item for item in self.weights if not item.sha256)

    @property
    def slug(self) -> str:
        """What the run is, readable and not quite unique."""
        parts = [self.model.name, f"{self.solver.name}{self.schedule.num_steps}"]
        parts += [f"{name}{value}" for name, value in self.solver.options]
        parts += [self.coordinates] if self.coordinates != "edm" else []
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
