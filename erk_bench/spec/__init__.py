"""What to compute, as frozen values that check themselves, and its identity.

Every field is either identity (it changes the images and enters `run_id`) or execution detail (it says
where, how fast or what to measure); the helper that declares a field makes it choose.
"""

from erk_bench.spec.identity import PROTOCOL, digest_of
from erk_bench.spec.image_set import SetSpec
from erk_bench.spec.metrics import ConvergedSpec, MetricsSpec
from erk_bench.spec.parts import (
    ACTS_AT_ONE,
    ALONE_AT_ONE,
    CorrectionSpec,
    GuidanceSpec,
    ModelSpec,
    NetworkSpec,
    Options,
    ScheduleSpec,
    SolverSpec,
    WeightsSpec,
)
from erk_bench.spec.run import SAMPLES, RunSpec
from erk_bench.spec.work import MAX_SEEDS

# Where images come from: a sampler's run, or a set that something else made.
Spec = RunSpec | SetSpec

__all__ = [
    "ACTS_AT_ONE",
    "ALONE_AT_ONE",
    "MAX_SEEDS",
    "PROTOCOL",
    "SAMPLES",
    "ConvergedSpec",
    "CorrectionSpec",
    "GuidanceSpec",
    "MetricsSpec",
    "ModelSpec",
    "NetworkSpec",
    "Options",
    "RunSpec",
    "ScheduleSpec",
    "SetSpec",
    "SolverSpec",
    "Spec",
    "WeightsSpec",
    "digest_of",
]
