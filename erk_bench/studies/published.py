"""Measured values beside published ones: what is compared with what, and when the comparison is unfair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from erk_bench.reporting.table_views import Estimate, PublishedValue, SetSummary
from erk_bench.runs.records import Record
from erk_bench.studies.table_file import Published

# Expected distance of the minimum of n normal draws below their mean, in standard deviations.
MINIMUM_BELOW_MEAN = {2: 0.56, 3: 0.85, 4: 1.03, 5: 1.16}
STANDARD_ERRORS = 3.0  # that a measured value may be off its published one, beside the table's tolerance


class SeedSetValues(NamedTuple):
    """One metric over the seed sets of a row: mean with its standard error, and each set's value."""

    mean: Estimate
    values: tuple[float, ...]

    @property
    def minimum(self) -> float:
        return min(self.values)

    @property
    def summary(self) -> SetSummary:
        """Spread (standard deviation) and minimum over the sets."""
        return SetSummary(stdev(self.values) if len(self.values) > 1 else 0.0, self.minimum)


def over_sets(records: Sequence[Record], metric: str) -> SeedSetValues:
    """A metric over records of the same run on disjoint seed sets."""
    found = [record.metrics[metric] for record in records]
    error = math.sqrt(math.fsum(item.standard_error**2 for item in found)) / len(found)
    values = tuple(item.value for item in found)
    return SeedSetValues((fmean(values), error), values)


def compare(
    value: float, published: Published, measured: SeedSetValues, num_images: int, same_sampler: bool = True
) -> PublishedValue:
    """Measured minus published: the minimum with a published minimum of several sets, else the mean.

    Within where the gap is at most `tolerance` of the published value plus three standard errors; open (None)
    where the number of images, on which distances depend, or the sampler is another.
    """
    fair = published.sets > 1 and len(measured.values) > 1
    own = measured.minimum if fair else measured.mean[0]
    limit = published.tolerance * value + STANDARD_ERRORS * measured.mean[1]
    fit = num_images == published.images and same_sampler
    within = abs(own - value) <= limit if fit else None
    return PublishedValue(value, own - value, within)


def unfair(published: Published, num_sets: int, num_images: int) -> str:
    """A warning where sets or images differ in number (a minimum of several beside a single run), or ""."""
    if num_images != published.images:
        return (
            f"the published values are of {published.images:,} images ({published.source}), these of "
            f"{num_images:,}: no verdict, since every one of these metrics depends on the number"
        )
    if published.sets > 1 and num_sets == 1:
        below = MINIMUM_BELOW_MEAN.get(published.sets, 0.85)
        return (
            f"the published values are minima of {published.sets} sets of images ({published.source}), "
            f"these are of one set: expect them about {below:g} standard deviations higher. "
            f"sets={published.sets} compares minimum with minimum"
        )
    if published.sets > 1 and published.sets != num_sets:
        return (
            f"the published values are minima of {published.sets} sets ({published.source}), these of "
            f"{num_sets}: use sets={published.sets}"
        )
    return ""
