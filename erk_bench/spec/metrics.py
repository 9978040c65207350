"""What to measure of images."""

from __future__ import annotations

from dataclasses import dataclass

from erk_bench.base.errors import unknown_name
from erk_bench.base.fields import execution
from erk_bench.spec.identity import check

KEPT_AS = ("float32", "float16")  # final states


@dataclass(frozen=True, kw_only=True)
class ConvergedSpec:
    """The run that solver errors are distances to: its solver (key of SOLVERS) and number of noise levels.

    Half as many levels are run too, to check it. states: dtype in which final states are kept.
    """

    solver: str = execution("heun")
    num_steps: int = execution(256)
    states: str = execution("float32")

    def __post_init__(self) -> None:
        check(
            4 <= self.num_steps <= 10_000,
            f"metrics.converged.num_steps is {self.num_steps}; it must be 4 to 10000",
        )
        if self.states not in KEPT_AS:
            raise unknown_name("metrics.converged.states", self.states, KEPT_AS)


@dataclass(frozen=True, kw_only=True)
class MetricsSpec:
    """What to measure: keys of METRICS, against which reference, with how many jackknife groups.

    reference: key of REFERENCES, or the address of a file of statistics. real_features: address of a file
    with the features of real images, for metrics that need more than statistics (precision, recall, KID).
    protocol: key of PROTOCOLS, where one of the field's fixes metrics and settings; "" where none does.
    converged: what solver errors are distances to.
    """

    names: tuple[str, ...] = execution()
    reference: str = execution()
    real_features: str | None = execution(None)
    num_groups: int = execution(50)
    kid_subsets: int = execution(100)
    kid_subset_size: int = execution(1000)
    protocol: str = execution("")
    converged: ConvergedSpec = execution(ConvergedSpec(), later=True)

    def __post_init__(self) -> None:
        check(len(self.names) > 0, "metrics.names is empty; name at least one metric")
        check(self.kid_subsets >= 1, f"metrics.kid_subsets is {self.kid_subsets}; need at least 1")
        check(
            self.kid_subset_size >= 2,
            f"metrics.kid_subset_size is {self.kid_subset_size}; need at least 2",
        )
        check(self.num_groups >= 2, f"metrics.num_groups is {self.num_groups}; need at least 2")
