"""What a family of metrics is: what it is given, and what it gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.frechet import FeatureSums, FrechetTarget
from erk_bench.evaluation.half_samples import half_sample_error
from erk_bench.evaluation.needs import Lack, check_sizes, groups_of
from erk_bench.evaluation.reference_files import Real
from erk_bench.spec import MetricsSpec


class Extracted(NamedTuple):
    """Features [N, D] and class logits [N, K] (None if the detector has none) of N images in seed order.

    Both float32, on the CPU, finite.
    """

    features: Tensor
    logits: Tensor | None = None


class Measured(NamedTuple):
    """A metric's value and its leave-one-group-out values.

    halves: of a metric whose error groups do not tell, its values of random halves (half_samples.py).
    """

    value: float
    replicates: tuple[float, ...]
    halves: tuple[float, ...] = ()

    @property
    def standard_error(self) -> float:
        """Of the value, over the choice of seeds (the reference set is taken as fixed)."""
        return half_sample_error(self.halves) if self.halves else jackknife_error(self.replicates)


def jackknife_error(replicates: Sequence[float]) -> float:
    """Standard error from leave-one-group-out values of equal groups (Efron and Stein 1981)."""
    count = len(replicates)
    mean = math.fsum(replicates) / count
    return math.sqrt((count - 1) / count * math.fsum((x - mean) ** 2 for x in replicates))


def split_groups(count: int, num_groups: int) -> Tensor:
    """Group number of each of `count` images, int64: contiguous, sizes differing by one at most."""
    if count < 2 * num_groups:
        names = MetricsSpec(names=("-",), reference="-", num_groups=num_groups)
        check_sizes(names, [], count)
    return groups_of(count, num_groups)


def features_of(real: Real | None) -> Tensor:
    """The real images' features, or the error that says how to get them."""
    if real is None or real.features is None:
        raise UserError(
            "the reference holds statistics only; make features with 'erk-bench reference "
            "keep_features=true' and set metrics.real_features=FILE, or leave these metrics out of "
            "metrics.names: they need features"
        )
    return real.features


def target_of(real: Real | None) -> FrechetTarget:
    """The real images' statistics, computed from their features where they are not given."""
    if real is not None and real.stats is not None:
        return FrechetTarget(real.stats, real.device)
    if real is not None and real.features is not None:
        return FrechetTarget(FeatureSums.of(real.features).stats(), real.device)
    raise UserError("the reference holds no statistics; make some with 'erk-bench reference ...'")


Compute = Callable[[Extracted, Real | None, Tensor, MetricsSpec], dict[str, Measured]]
Needs = Literal["statistics", "features", "nothing", "converged"]


@dataclass(frozen=True)
class Family:
    """A row of FAMILIES: the result `part` of a function, whose `lower` values are better or not.

    needs: of the real images; features give the statistics too. One that needs the converged solution is
    given each image's distance to it [N, 1] in the place of features. lack: what too few images lack (every
    family needs two for each jackknife group). logits: whether the detector must give class logits.
    """

    title: str
    compute: Compute
    part: str
    needs: Needs
    lower: bool
    lack: Lack | None = None
    logits: bool = False
