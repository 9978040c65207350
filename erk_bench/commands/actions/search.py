"""`erk-bench search`: good (w_stiff, w_con) for a run within a budget of network evaluations."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table as RichTable

from erk_bench.base.console import wide_console
from erk_bench.base.errors import UserError
from erk_bench.base.files import write_atomic
from erk_bench.commands.compose import run_spec
from erk_bench.commands.search import SearchOptions
from erk_bench.commands.tracking import tracked
from erk_bench.evaluation.metrics import METRICS, check_count
from erk_bench.reporting import table_figures
from erk_bench.reporting.search_figures import search_figure
from erk_bench.reporting.table_views import DASH, rounded
from erk_bench.reporting.trackers.tracker import Tracker
from erk_bench.reporting.trackers.values import compared, winner
from erk_bench.runs import launch
from erk_bench.runs.checks import check_names
from erk_bench.runs.cost import count_evaluations
from erk_bench.runs.records import Record
from erk_bench.runs.store import RunStore
from erk_bench.sampling.shared import Strength
from erk_bench.spec import CorrectionSpec, RunSpec
from erk_bench.studies.grid import evaluations_of
from erk_bench.studies.records import compute_records, prepare
from erk_bench.studies.search import STEP, MetricAtCost, Plan, SearchResult, Space, make_rungs
from erk_bench.studies.search import search as propose
from erk_bench.studies.search_study import StudyFile
from erk_bench.studies.verdicts import paired_difference, verdict

DEFAULT_RUNS = 12  # full runs that the budget pays for, where none is given
FIRST = 8  # the first rung has about this part of the images
LARGEST_SEED = 2**32 - 1  # that numpy takes
SHOWN = 5  # cells of a rung that a terminal shows
STUDIES = "studies.journal"  # the file of all studies of a folder


class _Bench:
    """Measures cells of a run's (w_stiff, w_con) on its first seeds, and keeps the records."""

    def __init__(self, spec: RunSpec, tracker: Tracker) -> None:
        self.spec = spec
        self.headline = spec.metrics.names[0]
        self.records: dict[tuple[Strength | None, int], Record] = {}
        self._tracker = tracker

    def at(self, cell: Strength | None, num_images: int) -> RunSpec:
        """The run of a cell, or of the plain solver, on the first images."""
        first = self.spec.seed_range[0]
        correction = CorrectionSpec(name="none")
        if cell is not None:
            correction = CorrectionSpec(name="erk_guid", w_stiff=cell.w_stiff, w_con=cell.w_con)
        return dataclasses.replace(
            self.spec,
            correction=correction,
            seeds=f"{first}-{first + num_images - 1}",
            metrics=dataclasses.replace(self.spec.metrics, names=(self.headline,)),
        )

    def __call__(self, cells: Sequence[Strength], num_images: int) -> dict[Strength, MetricAtCost]:
        specs = {cell: self.at(cell, num_images) for cell in (None, *cells)}
        records = compute_records(
            [list(specs.values())],
            title=f"{len(cells)} cells on {num_images:,} images",
            tracker=self._tracker,
            shared=True,
        )
        assert records is not None  # search runs in one process
        self.records |= {(cell, num_images): records[spec.run_id] for cell, spec in specs.items()}
        found = {}
        for cell in cells:
            record = records[specs[cell].run_id]
            found[cell] = MetricAtCost(record.metrics[self.headline].value, evaluations_of(record)[0])
        return found

    @property
    def evaluations(self) -> float:
        """Of every cell and the plain solver, each on the most images that it was measured on."""
        most: dict[Strength | None, tuple[int, float]] = {}
        for (cell, images), record in self.records.items():
            most[cell] = max(most.get(cell, (0, 0.0)), (images, evaluations_of(record)[0]))
        return sum(count for _, count in most.values())


def search(options: SearchOptions, settings: list[str]) -> int:
    """Run `erk-bench search`."""
    spec = run_spec(settings)
    with tracked("search", spec.run_id, [spec], settings) as tracker:
        return search_weights(spec, options, tracker)


def search_weights(spec: RunSpec, options: SearchOptions, tracker: Tracker) -> int:
    """Search, show the rungs, and say how sure the winner is."""
    if launch.world_size() > 1:
        raise UserError(
            "search decides in one process which cells come next, and WORLD_SIZE is "
            f"{launch.world_size()}; start it without torchrun: it has a worker for each GPU anyway"
        )
    if spec.correction.w_stiff:
        raise UserError("search chooses w_stiff and w_con itself; leave out correction=...")
    if options.search_seed > LARGEST_SEED:
        raise UserError(f"search_seed is {options.search_seed}; it must be 1 to {LARGEST_SEED}")
    if options.w_stiff[0] < STEP:
        text = ":".join(f"{each:g}" for each in options.w_stiff)
        raise UserError(
            f"w_stiff is '{text}'; its lowest value must be {STEP} or more (0 is the plain solver)"
        )
    space = Space(options.w_stiff, options.w_con)
    bench = _Bench(spec, tracker)
    plan = make_plan(spec, options)
    check_names(bench.at(Strength(1.0, 1.0), plan.rungs[0]))  # a solver without pairs is told now
    to = Path(options.to or Path(spec.out) / "searches").expanduser() / spec.run_id
    lower = METRICS[bench.headline].lower
    kept = to.with_name(STUDIES)
    study = StudyFile(kept, _study_name(spec, options, plan), space, bench.headline, lower=lower)
    prepare([bench.at(None, images) for images in plan.rungs])
    found = propose(study.keeping(bench), space, plan, lower=lower, seed=options.search_seed)
    study.finish(found.rungs[-1][1])
    plain = [bench.records[(None, images)].metrics[bench.headline].value for images, _ in found.rungs]
    write_atomic(to.with_name(f"{to.name}.csv"), _to_csv(bench, found).encode())
    title = f"{spec.slug}: search for (w_stiff, w_con)"
    for form in ("png", "svg"):
        figure = search_figure(title, METRICS[bench.headline].title, found.rungs, plain)
        write_atomic(to.with_name(f"{to.name}.{form}"), table_figures.to_bytes(figure, form))
    _show(bench, found)
    last, ranked = found.rungs[-1]
    best = ranked[0][0]
    gain = paired_difference(bench.records[(best, last)], bench.records[(None, last)], bench.headline)
    facts = compared(gain, verdict(gain, METRICS[bench.headline].lower))
    for cell, told in ((None, {}), (best, facts)):
        tracker.record(bench.records[(cell, last)], RunStore.folder_of(bench.at(cell, last)), told)
    measured = bench.records[(best, last)].metrics[bench.headline]
    metrics = {bench.headline: (measured.value, measured.standard_error)}
    name = f"w_stiff {best.w_stiff:g}, w_con {best.w_con:g}"
    tracker.summary(winner(name, metrics, {**best._asdict(), **facts}))
    tracker.cells(_to_csv(bench, found))
    tracker.picture("search", to.with_name(f"{to.name}.png"))
    print(f"budget: {bench.evaluations:,.0f} of {_budget(spec, options):,} network evaluations used")
    for line in conclusions(bench.records, bench.headline, found):
        print(line)
    print(f"cells and figure: {to}.*")
    print(f"study: {kept} (optuna-dashboard {kept})")
    return 0


def _study_name(spec: RunSpec, options: SearchOptions, plan: Plan) -> str:
    """The same for the same search only: all that its proposals and rungs depend on."""
    bounds = [
        f"{name} {low:g}:{high:g}"
        for name, (low, high) in (("w_stiff", options.w_stiff), ("w_con", options.w_con))
    ]
    rungs = "-".join(map(str, plan.rungs))
    return (
        f"{spec.run_id} seeds {spec.seeds}: {spec.metrics.names[0]}, {', '.join(bounds)}, images {rungs}, "
        f"budget {plan.budget}, factor {plan.factor}, batch {plan.batch}, search_seed {options.search_seed}"
    )


def _budget(spec: RunSpec, options: SearchOptions) -> int:
    full = round(len(spec.seed_range) * sum(count_evaluations(spec)))
    return options.budget or DEFAULT_RUNS * full


def make_plan(spec: RunSpec, options: SearchOptions) -> Plan:
    """Rungs and budget from the settings."""
    images, nfe = len(spec.seed_range), sum(count_evaluations(spec))
    factor, batch = options.factor, options.batch
    if factor < 2 or batch < 2:
        raise UserError(f"factor is {factor} and batch {batch}; both must be 2 or more")
    first = options.first or max(images // FIRST, 1)
    if first > images:
        raise UserError(f"first is {first}, more than the {images} images of seeds={spec.seeds}")
    rungs, sampled = make_rungs(spec.seed_range, first, factor, spec.block_size)
    headline = dataclasses.replace(spec.metrics, names=spec.metrics.names[:1])
    check_count(headline, images)
    check_count(headline, rungs[0], "first={}")
    plan = Plan(rungs, sampled, factor, nfe, _budget(spec, options), batch)
    plan.check()
    return plan


def _to_csv(bench: _Bench, found: SearchResult) -> str:
    """One line for each cell and rung, best first."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    name = bench.headline
    writer.writerow(
        ["images", "w_stiff", "w_con", name, f"{name}_se", "difference", "difference_se", "run_id"]
    )
    for images, cells in found.rungs:
        plain = bench.records[(None, images)]
        for cell, value in cells:
            record = bench.records[(cell, images)]
            difference = paired_difference(record, plain, name)
            writer.writerow(
                [images, *cell, value, record.metrics[name].standard_error, *difference, record.run_id]
            )
    return buffer.getvalue()


def _show(bench: _Bench, found: SearchResult) -> None:
    metric = METRICS[bench.headline]
    table = RichTable(
        title="search", caption="± is one jackknife standard error, on the same seeds in a rung"
    )
    for header in ("images", "w_stiff", "w_con", metric.title, f"Δ {metric.title}", "verdict"):
        table.add_column(header, justify="left" if header == "verdict" else "right", no_wrap=True)
    for images, cells in found.rungs:
        plain = bench.records[(None, images)]
        measured = plain.metrics[bench.headline]
        value = rounded((measured.value, measured.standard_error))
        table.add_row(f"{images:,}", "plain", DASH, value, DASH, DASH)
        for cell, _ in cells[:SHOWN]:
            record = bench.records[(cell, images)]
            measured = record.metrics[bench.headline]
            difference = paired_difference(record, plain, bench.headline)
            table.add_row(
                "", f"{cell.w_stiff:g}", f"{cell.w_con:g}",
                rounded((measured.value, measured.standard_error)), rounded(difference, "+"),
                verdict(difference, metric.lower),
            )  # fmt: skip
        if len(cells) > SHOWN:
            table.add_row("", f"and {len(cells) - SHOWN} more")
        table.add_section()
    wide_console().print(table)


def conclusions(
    records: Mapping[tuple[Strength | None, int], Record], headline: str, found: SearchResult
) -> list[str]:
    """The winner on all images, its gain, and its distance from the runner-up in standard errors."""
    images, ranked = found.rungs[-1]
    metric = METRICS[headline]
    winner, value = ranked[0]
    record = records[(winner, images)]
    gain = paired_difference(record, records[(None, images)], headline)
    lines = [
        f"winner: w_stiff {winner.w_stiff:g}, w_con {winner.w_con:g}: {metric.title} {value:.4g}, "
        f"{rounded(gain, '+')} against the plain solver ({verdict(gain, metric.lower)})"
    ]
    other = next((cell for cell, found in ranked[1:] if found != value), None)
    if other is None:
        lines.append("runner-up: every finalist has the same value, so the choice between them is free")
    else:
        margin, error = paired_difference(records[(other, images)], record, headline)
        sure = f"{abs(margin) / error:.1f} standard errors" if error else "without error"
        lines.append(
            f"runner-up: w_stiff {other.w_stiff:g}, w_con {other.w_con:g}, {sure} away ({margin:+.4g} ± "
            f"{error:.2g})"
        )
    last = record.run_spec.seed_range[-1] + 1
    lines.append(
        f"the winner of {len(found.rungs[0][1])} cells flatters itself; measure it on other seeds: the same "
        f"settings with 'erk-bench run', correction=erk_guid correction.w_stiff={winner.w_stiff:g} "
        f"correction.w_con={winner.w_con:g} seeds={last}-{last + images - 1}"
    )
    return lines
