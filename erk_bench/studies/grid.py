"""From the records of a grid's cells to what is shown: differences from the baseline, the best cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from erk_bench.evaluation.metrics import METRICS
from erk_bench.reporting.grid_views import Best, GridPanel, GridPoint, GridView, label
from erk_bench.runs.blocks import blocks_of
from erk_bench.runs.records import Record
from erk_bench.studies.grid_file import Cell, Grid
from erk_bench.studies.verdicts import RESOLVED, SEEDS_ONLY, check_comparable, paired_difference, verdict


def build_grid_view(grid: Grid, cells: Sequence[Cell], records: Mapping[str, Record]) -> GridView:
    """The grid with the records of its cells and of their baselines, by run_id.

    Raises UserError for records that were measured differently, or that lack a metric of the panels.
    """
    for metric in grid.panels:
        check_comparable(metric, list(records.values()))
    by_panel: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        by_panel.setdefault(tuple(cell.place[key] for key in grid.others), []).append(cell)
    panels = tuple(
        _panel(grid, dict(zip(grid.others, values, strict=True)), members, records)
        for values, members in by_panel.items()
    )
    first = next(iter(records.values()))
    facts = (
        f"{first.num_images} images a cell, seeds {first.seeds}; ± is one jackknife standard error; Δ is "
        f"against the same run without ERK-Guid on the same seeds, resolved beyond {RESOLVED:g} standard "
        f"errors. {SEEDS_ONLY} {_sharing(list(records.values()))} The best of many cells flatters "
        "itself: measure it again on other seeds."
    )
    return GridView(
        title=grid.title,
        caption=f"{grid.caption} {facts}",
        axes=grid.axes,
        x=grid.x,
        curves=grid.curves,
        titles={name: METRICS[name].title for name in grid.panels},
        lower={name: METRICS[name].lower for name in grid.panels},
        panels=panels,
    )


def _panel(
    grid: Grid, place: Mapping[str, str], cells: Sequence[Cell], records: Mapping[str, Record]
) -> GridPanel:
    points = tuple(_point(grid, cell, records) for cell in cells)
    return GridPanel(place, points, _best(grid, points, records))


def _point(grid: Grid, cell: Cell, records: Mapping[str, Record]) -> GridPoint:
    plain = cell.spec.correction.w_stiff == 0
    base = records[cell.spec.baseline.run_id]
    record = base if plain else records[cell.spec.run_id]
    headline = grid.panels[0]
    differences = {} if plain else {name: paired_difference(record, base, name) for name in grid.panels}
    return GridPoint(
        place=cell.place,
        run_id=record.run_id,
        nfe=record.nfe,
        nfe_guide=record.nfe_guide,
        metrics=_estimates(grid, record),
        baseline=_estimates(grid, base),
        differences=differences,
        verdict=verdict(differences[headline], METRICS[headline].lower) if differences else "",
    )


def _estimates(grid: Grid, record: Record) -> dict[str, tuple[float, float]]:
    return {name: (record.metrics[name].value, record.metrics[name].standard_error) for name in grid.panels}


def _best(grid: Grid, points: Sequence[GridPoint], records: Mapping[str, Record]) -> Best:
    """The best cell by the headline, and how far the next one is that differs from it at all."""
    headline = grid.panels[0]
    sign = 1 if METRICS[headline].lower else -1
    ranked = sorted(points, key=lambda point: sign * point.metrics[headline][0])
    best, *rest = ranked
    value = best.metrics[headline][0]
    runner_up = next((point for point in rest if point.metrics[headline][0] != value), None)
    margin = None
    if runner_up is not None:
        margin = paired_difference(records[runner_up.run_id], records[best.run_id], headline)
    return Best(best, runner_up, margin)


def _sharing(records: Sequence[Record]) -> str:
    """How many network evaluations sharing trajectories saved, as the records tell."""
    counted = separate = 0.0
    for record in records:
        used, alone = evaluations_of(record)
        counted += used
        separate += alone
    if counted == separate:
        return f"Runs were separate: {separate:,.0f} network evaluations."
    return (
        f"Runs shared trajectories: {counted:,.0f} network evaluations, {counted / separate:.1%} of the "
        f"{separate:,.0f} of separate runs."
    )


def evaluations_of(record: Record) -> tuple[float, float]:
    """Network evaluations (of single images) that a run took, and those of the same run alone.

    In whole blocks; of work that was shared, this run's part.
    """
    spec = record.run_spec
    blocks = blocks_of(spec.seed_range, spec.block_size)
    alone = (record.nfe + record.nfe_guide) * len(blocks) * spec.block_size
    return record.environment.get("shared", {}).get("evaluations", alone), alone


def summary(grid: Grid, view: GridView) -> list[str]:
    """A sentence for each panel: the best cell, its gain, and how sure it is."""
    headline = grid.panels[0]
    lines = []
    for panel in view.panels:
        best, runner_up, margin = panel.best
        value, _ = best.metrics[headline]
        text = f"{label(panel.place)}: " if panel.place else ""
        inside = {key: best.place[key] for key in grid.axes if key not in panel.place}
        text += f"best {view.titles[headline]} {value:.4g} at {label(inside)}"
        if best.differences:
            difference, error = best.differences[headline]
            text += f", {difference:+.4g} ± {error:.2g} against the plain solver ({best.verdict})"
        if runner_up is not None and margin is not None:
            there = {key: runner_up.place[key] for key in grid.axes if key not in panel.place}
            gap, error = abs(margin[0]), margin[1]
            sure = f"{gap / error:.1f} standard errors away" if error else f"{gap:.4g} away, without error"
            text += f"; next {label(there)} is {sure}"
        lines.append(text)
    return lines
