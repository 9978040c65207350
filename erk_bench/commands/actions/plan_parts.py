"""What `erk-bench plan` tells of an image: operations of each part, and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table as RichTable

from erk_bench.base.console import wide_console
from erk_bench.base.footprint import NOTHING
from erk_bench.reporting.table_views import DASH
from erk_bench.runs import cost as planning
from erk_bench.runs.memory import GB, RESERVE, Memory, memory_of
from erk_bench.spec import RunSpec


class Operations(NamedTuple):
    """Evaluations, and FLOPs of the networks, of decoding and of the detectors; what nobody knows is 0."""

    evaluations: float = 0.0
    networks: float = 0.0
    decoding: float = 0.0
    features: float = 0.0

    @classmethod
    def of(cls, cost: planning.Cost) -> Operations:
        """Of one image."""
        evaluations = cost.nfe + cost.nfe_guide
        parts = (evaluations, cost.network_flops, cost.decoder_flops, cost.detector_flops)
        return cls(*(0.0 if math.isnan(part) else part for part in parts))

    def times(self, count: int) -> Operations:
        """Of so many."""
        return Operations(*(part * count for part in self))

    def __add__(self, other: object) -> Operations:
        assert isinstance(other, Operations)
        return Operations(*(one + two for one, two in zip(self, other, strict=True)))

    @property
    def flops(self) -> float:
        return self.networks + self.decoding + self.features

    def told(self) -> str:
        """In words."""
        return (
            f"{self.evaluations:,.0f} network evaluations; {self.flops / 1e12:,.0f} TFLOPs: networks "
            f"{self.networks / 1e12:,.0f}, decoding {self.decoding / 1e12:,.0f}, features "
            f"{self.features / 1e12:,.0f}"
        )


class Rates(NamedTuple):
    """TFLOP/s of a worker in its networks, and in decoding and features; 0: the same, or not known."""

    networks: float = 0.0
    rest: float = 0.0

    def parts(self, work: Operations) -> dict[str, float]:
        """Hours of each part."""
        rest = self.rest or self.networks
        return {
            "networks": work.networks / self.networks / 3.6e15,
            "decoding": work.decoding / rest / 3.6e15,
            "features": work.features / rest / 3.6e15,
        }

    def hours(self, work: Operations) -> float:
        return sum(self.parts(work).values())


def show_parts(specs: Sequence[RunSpec]) -> None:
    """Print a table of what an image takes in each part, a row for each kind of run."""
    names = list(dict.fromkeys(name for spec in specs for name in planning.detector_parts(spec)))
    table = RichTable(title="TFLOPs of an image")
    for header in ("model", "NFE", "an evaluation", "networks", "decoder", *names, "decoder's share"):
        table.add_column(header, justify="left" if header == "model" else "right")
    rows: dict[tuple[str, ...], None] = {}
    for spec in specs:
        parts, cost = planning.parts_of(spec), planning.estimate(spec)
        work = Operations.of(cost)
        evaluations = [parts.network] if not cost.nfe_guide else [parts.network, parts.guide]
        detectors = [parts.detectors.get(name, NOTHING) for name in names]
        share = work.decoding / work.flops if work.networks else math.nan
        rows[
            spec.model.name,
            DASH
            if math.isnan(cost.nfe)
            else f"{cost.nfe} + {cost.nfe_guide}"
            if cost.nfe_guide
            else f"{cost.nfe}",
            " + ".join(_tera(None if each is None else each.flops) for each in evaluations),
            _tera(cost.network_flops),
            _tera(cost.decoder_flops),
            *(_tera(None if each is None else each.flops) for each in detectors),
            DASH if math.isnan(share) else f"{share:.0%}",
        ] = None
    for row in rows:
        table.add_row(*row)
    wide_console().print(table)


def _tera(flops: float | None) -> str:
    if flops is None or math.isnan(flops):
        return DASH
    return "0" if not flops else f"{flops / 1e12:.3g}" if flops >= 1e9 else f"{flops / 1e12:.1e}"


def show_memory(specs: Sequence[RunSpec], capacity: float | None) -> None:
    """Print the memory that each kind of run needs.

    capacity: of a GPU in GB, whose largest block_size is found.
    """
    told: dict[str, None] = {}
    for spec in specs:
        name = spec.model.name
        found = memory_of(spec)
        if found is None:
            told[f"memory of {name} is not known: code that nobody counted takes part"] = None
            continue
        host = f"about {found.host / GB:,.1f} GB of the host for each worker"
        if capacity is None and planning.for_cpus(spec):
            told[f"memory of {name}: {host}"] = None
            continue
        device = _of_gpu(found, spec.block_size)
        told[f"memory of {name}, block_size={spec.block_size}: {device}; {host}"] = None
        if capacity is not None:
            told[f"memory={capacity:g}: {_fitting(spec, found, capacity)}"] = None
    for line in told:
        print(line)


_WHILE = {"sampling": "sampling", "decoding": "decoding", "features": "extracting features"}


def _of_gpu(need: Memory, block_size: int) -> str:
    stages = need.stages(block_size)
    most = max(stages, key=lambda name: stages[name])
    return (
        f"about {need.of_gpu(block_size) / GB:,.1f} GB of a GPU (weights {need.weights / GB:,.1f}, at most "
        f"{stages[most] / GB:,.1f} while {_WHILE[most]}, {RESERVE / GB:g} assumed for CUDA itself)"
    )


def _fitting(spec: RunSpec, need: Memory, capacity: float) -> str:
    largest = need.largest_block(capacity * GB)
    name = spec.model.name
    if not largest:
        return f"not even block_size=1 of {name} fits; it needs a GPU of {need.of_gpu(1) / GB:,.1f} GB"
    fits = "fits" if spec.block_size <= largest else "does not fit"
    return (
        f"block_size={spec.block_size} of {name} {fits}, up to about block_size={largest} does; which is "
        "fastest, only the GPU tells (make gpu-check)"
    )
