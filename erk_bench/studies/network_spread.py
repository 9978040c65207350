"""Whether a method is better over networks of several training seeds, not only over sampling seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.stats import t as student

from erk_bench.evaluation.metrics import METRICS
from erk_bench.reporting.table_views import rounded
from erk_bench.runs.records import Record
from erk_bench.studies.baselines import Line
from erk_bench.studies.verdicts import holm, paired_difference, paired_parts, verdict


class Method(NamedTuple):
    """A group of rows, the same method on other networks. Pairs of records: its own, its baseline's."""

    name: str
    baseline: str
    pairs: Sequence[tuple[Record, Record]]


class Spread(NamedTuple):
    """Of a difference over networks: its mean, with errors of the mean over networks and over sampling seeds.

    All networks draw the same seeds, so what the seeds do to one they do to all, and more networks do not
    average it away. error: of both together. p: two-sided, of Student's t with the degrees of freedom of
    Welch and Satterthwaite.
    """

    mean: float
    networks: float
    sampling: float
    error: float
    p: float


def methods_of(lines: Sequence[Line], against: Mapping[str, Line | None]) -> list[Method]:
    """The groups of rows that have a baseline each. against: each line's baseline, by its digest."""
    found: dict[str, list[tuple[Line, Line]]] = {}
    for line in lines:
        base = against[line.spec.digest]
        if line.row.group is not None and base is not None:
            found.setdefault(str(line.row.group), []).append((line, base))
    return [
        Method(name, str(pairs[0][1].row.group), [(line.records[0], base.records[0]) for line, base in pairs])
        for name, pairs in found.items()
        if len(pairs) > 1
    ]


def spread_of(values: Sequence[float], sampling: float, groups: int) -> Spread:
    """Of two differences or more, one for each network.

    sampling: the standard error over sampling seeds of their mean, from so many groups of images.
    """
    mean, networks = fmean(values), stdev(values) / math.sqrt(len(values))
    error = math.hypot(networks, sampling)
    if not error:
        return Spread(mean, networks, sampling, error, float(mean == 0))
    freedom = error**4 / (networks**4 / (len(values) - 1) + sampling**4 / (groups - 1))
    return Spread(mean, networks, sampling, error, 2 * float(student.sf(abs(mean) / error, freedom)))


def of_method(method: Method, metric: str) -> Spread:
    """The spread of a method's differences to its baseline; each pair is of the same seeds."""
    differences = [paired_difference(*pair, metric)[0] for pair in method.pairs]
    parts = [paired_parts(own.metrics[metric], base.metrics[metric]) for own, base in method.pairs]
    error_of = parts[0][0]
    means = [fmean(column) for column in zip(*(values for _, values in parts), strict=True)]
    return spread_of(differences, error_of(means), len(means))


def over_networks(lines: Sequence[Line], against: Mapping[str, Line | None], metric: str) -> list[str]:
    """A note for each group of rows: its difference to the baseline over networks, and whether it holds."""
    methods = methods_of(lines, against)
    spreads = [of_method(method, metric) for method in methods]
    corrected = holm([spread.p for spread in spreads])
    notes = []
    for method, spread, p in zip(methods, spreads, corrected, strict=True):
        said = verdict((spread.mean, spread.error), METRICS[metric].lower, p)
        notes.append(
            f"over {len(method.pairs)} networks of other training seeds, {METRICS[metric].title} of "
            f"{method.name} minus {method.baseline}: {rounded((spread.mean, spread.error), '+')} (standard "
            f"error over networks {spread.networks:.2g}, over sampling seeds {spread.sampling:.2g}), {said} "
            f"(p {p:.2g} after Holm)"
        )
    return notes
