"""Families of diffusion transformers: what their files may hold, and what their outputs mean."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from erk_bench.networks.paths import LinearPath

PLAIN: frozenset[str] = frozenset()


class ModelRules(NamedTuple):
    """How a model's program samples, for sampling/native."""

    data_time: int
    noise_scale: float
    discrete: bool
    interval_ends: str
    by_step: bool
    euler_last: bool


class FlowFamily(NamedTuple):
    """A row of FAMILIES.

    title: as its paper calls it. path: what it was trained on; None is the discrete levels of DDPM.
    guided_channels: how many of the first channels its program guides; None is all. features: what a network
    may have beside the parts of a plain transformer (see flow_files); required: those that all of them have.
    keep_variances: whether the network's own output includes learned variances.
    interval_ends: which ends of an interval of guidance, in the model's own time, belong to it.
    by_step: whether the time at which a step starts decides on guidance, not that of each evaluation.
    euler_last: whether the last step is Euler's, not the solver's.
    """

    title: str
    path: LinearPath | None
    guided_channels: int | None = None
    features: frozenset[str] = PLAIN
    required: frozenset[str] = PLAIN
    keep_variances: bool = False
    interval_ends: str = "[]"
    by_step: bool = False
    euler_last: bool = False

    def rules(self, noise_scale: float) -> ModelRules:
        """How its program samples with a network whose noise has this standard deviation."""
        return ModelRules(
            self.path.data_time if self.path else 0,
            noise_scale,
            self.path is None,
            self.interval_ends,
            self.by_step,
            self.euler_last,
        )

    def path_of(self, noise_scale: float) -> LinearPath:
        """The path of a network whose noise has this standard deviation."""
        assert self.path is not None
        return dataclasses.replace(self.path, noise_scale=noise_scale)


_LIGHTNING = frozenset({"qk_norm", "rms_norm", "swiglu", "rope", "no_shift"})
_JIT = frozenset({"qk_norm", "rms_norm", "swiglu", "rope", "bottleneck", "in_context"})

FAMILIES: dict[str, FlowFamily] = {
    "dit": FlowFamily("DiT", None, guided_channels=3, keep_variances=True, euler_last=True),
    "sit": FlowFamily("SiT", LinearPath(), guided_channels=3),
    "repa": FlowFamily(
        "REPA", LinearPath(data_time=0), features=frozenset({"qk_norm", "projectors"}),
        by_step=True, euler_last=True,
    ),
    "lightningdit": FlowFamily("LightningDiT", LinearPath(), guided_channels=3, features=_LIGHTNING),
    "jit": FlowFamily(
        "JiT", LinearPath("data", least_share=0.05), features=_JIT, required=_JIT - {"in_context"},
        interval_ends="()", euler_last=True,
    ),
}  # fmt: skip
