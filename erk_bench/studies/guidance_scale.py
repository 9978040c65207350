"""Guidance methods at equal effective scale: how strongly each row of a table guides, and what it gains.

Weights of two methods do not compare; their effective scales do (sampling/effective_scale.py). Each row is
set beside classifier-free guidance of the same effective scale, interpolated between its own rows.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import NamedTuple

from erk_bench.base.fields import identity_fields
from erk_bench.evaluation.metrics import METRICS
from erk_bench.reporting.row_names import guidance_name
from erk_bench.reporting.table_views import Estimate, rounded
from erk_bench.runs.device import Place
from erk_bench.runs.equation import equation_of
from erk_bench.runs.records import MetricRecord, Record
from erk_bench.runs.sample_block import draw_block
from erk_bench.sampling.effective_scale import effective_scale
from erk_bench.sampling.guided import EVERYWHERE
from erk_bench.spec import RunSpec
from erk_bench.studies.verdicts import paired_error, verdict

ABOUT = (
    "Effective scale: the mean over a run's evaluations of |<D - D_g, u>| / |u|^2, u = D_m - D_g, and over "
    "{images} seeds (docs/guidance.md). That of classifier-free guidance is its weight. The difference is "
    "from classifier-free guidance of the same effective scale and solver, whose {metric} is interpolated "
    "linearly between its rows, on the same seeds, with one jackknife standard error; – where that scale is "
    "outside of its rows. Bold is the best row of a method; the best of several flatters itself."
)


class ScaledRow(NamedTuple):
    """A row of a table: the method that it belongs to, its run, its record and its effective scale."""

    method: str
    spec: RunSpec
    record: Record
    scale: float

    @property
    def plain(self) -> bool:
        """Whether it is classifier-free guidance everywhere, or no guidance at all."""
        guidance = self.spec.guidance
        return guidance.name == "none" or (guidance.name == "cfg" and guidance.interval == EVERYWHERE)


def measured_scale(spec: RunSpec, place: Place, images: int) -> float:
    """The mean effective scale over the first seeds of a run; 1 where no network guides."""
    if not spec.guidance.needs_guide:
        return 1.0
    drawn = draw_block(spec, spec.seed_range[:images], place)
    assert drawn.guide is not None
    scales = effective_scale(equation_of(spec), drawn.net, drawn.noise, drawn.condition, guide=drawn.guide)
    return float(scales.mean())


def at_equal_scale(row: ScaledRow, rows: Sequence[ScaledRow], metric: str) -> Estimate | None:
    """The metric of a row minus that of classifier-free guidance of its effective scale, on the same seeds.

    Of the rows with the same solver and noise levels. None for those rows themselves, and where the scale
    lies outside of theirs.
    """
    if row.plain:
        return None
    alike = [other for other in rows if other.plain and _rest(other.spec) == _rest(row.spec)]
    for low, high in itertools.pairwise(sorted(alike, key=lambda other: other.scale)):
        if low.scale <= row.scale <= high.scale and low.scale < high.scale:
            share = (row.scale - low.scale) / (high.scale - low.scale)
            between = _blended(low.record.metrics[metric], high.record.metrics[metric], share)
            mine = row.record.metrics[metric]
            return mine.value - between.value, paired_error(mine, between)
    return None


def _rest(spec: RunSpec) -> str:
    """What two rows must have in common: all but the guidance."""
    return json.dumps({key: value for key, value in identity_fields(spec).items() if key != "guidance"})


def _blended(a: MetricRecord, b: MetricRecord, share: float) -> MetricRecord:
    """(1 - share) a + share b, value by value."""

    def mix(mine: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
        return tuple((1 - share) * x + share * y for x, y in zip(mine, theirs, strict=True))

    value = (1 - share) * a.value + share * b.value
    return MetricRecord(value, float("nan"), mix(a.replicates, b.replicates), mix(a.halves, b.halves))


def scale_markdown(title: str, rows: Sequence[ScaledRow], metric: str, images: int, command: str) -> str:
    """Every row with its effective scale and its difference at equal scale; then one line a method."""
    lower, shown = METRICS[metric].lower, METRICS[metric].title
    others = [name for name in rows[0].record.metrics if name != metric]
    methods: dict[str, list[ScaledRow]] = {}
    for row in rows:
        methods.setdefault(row.method, []).append(row)
    about = ABOUT.format(images=images, metric=shown)
    lines = [
        f"# {title}: at equal effective scale", "", f"Made by `{command}`.", "", about, "", "## Each method",
        "", f"| method | best weight | {shown} there | rows better, worse, not resolved |",
        "|---|---|---|---|",
    ]  # fmt: skip
    best = {}
    for method, own in methods.items():
        best[method] = (min if lower else max)(own, key=lambda row: row.record.metrics[metric].value)
        found = [gap for row in own if (gap := at_equal_scale(row, rows, metric)) is not None]
        verdicts = [verdict(gap, lower) for gap in found]
        counts = ", ".join(str(verdicts.count(word)) for word in ("better", "worse", "not resolved"))
        lines.append(
            f"| {method} | {best[method].spec.guidance.weight:g} | {_estimate(best[method], metric)} | "
            f"{counts if found else '–'} |"
        )
    lines += ["", "## Every row", "", f"| guidance | effective scale | {shown} | "
              f"{''.join(f'{METRICS[name].title} | ' for name in others)}minus CFG of equal scale |",
              "|---" * (4 + len(others)) + "|"]  # fmt: skip
    for row in rows:
        gap = at_equal_scale(row, rows, metric)
        told = f"{rounded(gap, '+')}, {verdict(gap, lower)}" if gap else "–"
        name = guidance_name(row.spec) + (", Euler" if row.spec.solver.name == "euler" else "")
        value = _estimate(row, metric)
        value = f"**{value}**" if row is best[row.method] else value
        more = "".join(f"{_estimate(row, other)} | " for other in others)
        lines.append(f"| {name} | {row.scale:.3g} | {value} | {more}{told} |")
    return "\n".join(lines) + "\n"


def _estimate(row: ScaledRow, metric: str) -> str:
    found = row.record.metrics[metric]
    return rounded((found.value, found.standard_error))
