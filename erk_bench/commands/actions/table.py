"""`erk-bench table`: compute what is missing of a table, show it, write its table_views."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from erk_bench.base.console import wide_console
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.files import write_atomic
from erk_bench.commands.compose import settings_text
from erk_bench.commands.compose_studies import table_file, table_specs
from erk_bench.commands.table import TableOptions
from erk_bench.commands.tracking import tracked
from erk_bench.reporting import table_figures, table_views
from erk_bench.reporting.latex import latex
from erk_bench.reporting.styles import Style, style_named
from erk_bench.reporting.table_csv import to_csv
from erk_bench.reporting.trackers.tracker import Tracker
from erk_bench.reporting.trackers.values import compared, winner
from erk_bench.runs.export import images_of
from erk_bench.runs.generate import unfinished
from erk_bench.runs.records import Record, write_record
from erk_bench.runs.set_block import first_of_set
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec, SetSpec, Spec
from erk_bench.studies import table as tables
from erk_bench.studies.records import compute_records, prepare, read_folder, read_records
from erk_bench.studies.score_sets import row_spec, set_name
from erk_bench.studies.table_file import RowSpec, TableFile

SHEET_COLUMNS = 14  # seeds shown on a sample sheet


def table(options: TableOptions, settings: list[str]) -> int:
    """Run `erk-bench table`; status 1 if a row is off."""
    content = table_file(options.table)
    fetch = not (options.from_ or options.cfg)
    of_set = _kept_sets(options.from_) if options.from_ else _read_set
    rows, specs = table_specs(content, settings, options.rows or "", of_set, fetch=fetch)
    if options.cfg:
        print("---\n".join(map(settings_text, specs)), end="")
        return 0
    as_published = all(setting.startswith("tracker") for setting in settings)
    with tracked("table", content.name, specs, settings) as tracker:
        return show_table(content, rows, specs, options, tracker, as_published=as_published)


def _read_set(row: RowSpec, run: RunSpec) -> SetSpec:
    """The set of a row, from its files."""
    return row_spec(row.images, run, row.label)


def _kept_sets(folders: str) -> Callable[[RowSpec, RunSpec], SetSpec]:
    """The set of a row by its name in kept records: its files need not be here."""
    kept = [
        record
        for folder in folders.split(",")
        for record in read_folder(Path(folder).expanduser()).values()
        if isinstance(record.source, SetSpec)
    ]

    def find(row: RowSpec, run: RunSpec) -> SetSpec:
        name = row.label or set_name(row.images)
        for record in kept:
            if isinstance(record.source, SetSpec) and record.source.name == name:
                return dataclasses.replace(
                    record.source,
                    metrics=dataclasses.replace(record.source.metrics, names=run.metrics.names),
                )
        raise UserError(
            f"no record in '{folders}' is of a set called '{name}'; they are of: "
            f"{', '.join(record.name for record in kept) or 'no sets'}. Leave out from=... to score it"
        )

    return find


def show_table(
    content: TableFile,
    rows: Sequence[RowSpec],
    every: Sequence[Spec],
    options: TableOptions,
    tracker: Tracker,
    *,
    as_published: bool,
) -> int:
    """Show the `rows` of a table file, computed or from records; status 1 if a row is off.

    every: the run of each row. as_published: the rows are the table's own, so that a row without a reference
    record is off too, where the table has reference records.
    """
    specs = list({spec.run_id: spec for spec in every}.values())  # settings make rows equal
    sets = [[_shifted(spec, index) for spec in specs] for index in range(options.sets)]
    style = style_named(options.style)
    chosen = chosen_columns(options.columns, content.headline, specs[0])
    folder = None if content.reference is None else Path(content.reference)
    if folder is not None and options.from_ and Path(options.from_).resolve() == folder.resolve():
        folder = None  # the records themselves are shown
    references = tables.references_for(specs, read_folder(folder) if folder is not None else {})
    if options.from_:
        computed = _by_run(specs, [read_records(each, options.from_) for each in sets])
    else:
        computed = _compute_rows(content, sets, options.sampling, tracker)
    if not computed:
        return 0
    to = Path(options.to or Path(specs[0].out) / "tables").expanduser()
    records = [computed[spec.run_id] for spec in every]
    view = dataclasses.replace(tables.build_view(content, rows, records, references), chosen=chosen)
    _write(content, view, to, style)
    once = dict.fromkeys(several[0].source.digest for several in records)  # as the view has them
    rows_of = dict(zip(once, view.rows, strict=True))
    for row, record in [
        (rows_of[several[0].source.digest], record) for several in computed.values() for record in several
    ]:
        folder_of_run = None if options.from_ else RunStore.folder_of(record.source)
        tracker.record(record, folder_of_run, compared(row.difference, row.verdict))
    tracker.table(view)
    tracker.summary(outcome(view))
    if content.figure != table_views.NO_FIGURE:
        tracker.picture(f"{content.name}-{content.figure}", to / f"{content.name}-{content.figure}.png")
    if not options.from_:
        _sample_sheet(content, specs, view, to / f"{content.name}-samples.png", tracker, style)
    if options.records:
        _write_records(Path(options.records), computed.values())
    table_views.print_table(view, wide_console())
    print(f"table and pictures: {to}/{content.name}*")
    dropped = content.published and not any(row.published for row in rows)
    if dropped and any(row.published for row in content.rows):
        print(
            "the published values are not compared: a setting changes what is computed, or the rows have none"
        )
    return _status(view, folder, references, as_published=as_published and not options.records)


def outcome(view: table_views.TableView) -> dict[str, float | str]:
    """The best row, and of every row with a baseline the difference from it and the verdict."""
    headline = next(iter(view.rows[0].metrics))
    sign = 1 if view.lower else -1
    best = min(view.rows, key=lambda row: sign * row.metrics[headline][1][0])
    metrics = {name: estimate for name, (_, estimate) in best.metrics.items()}
    found = winner(_full_name(best), metrics, compared(best.difference, best.verdict))
    for row in view.rows:
        for key, value in compared(row.difference, row.verdict).items():
            found[f"{key}/{_full_name(row)}"] = value
    return found


def _full_name(row: table_views.TableRow) -> str:
    steps = "" if row.steps is None else f"{row.steps} steps, "
    return f"{row.guidance}, {steps}{row.method}"


def _write(content: TableFile, view: table_views.TableView, to: Path, style: Style) -> None:
    """The table as Markdown, CSV and LaTeX, and its picture."""
    for form, text in (("md", table_views.markdown), ("csv", to_csv), ("tex", latex)):
        write_atomic(to / f"{content.name}.{form}", text(view).encode())
    for form in style.forms if content.figure != table_views.NO_FIGURE else ():
        drawn = table_figures.draw(view, content.figure, style)
        write_atomic(to / f"{content.name}-{content.figure}.{form}", table_figures.to_bytes(drawn, form))


def _write_records(to: Path, records: Iterable[Sequence[Record]]) -> None:
    """records: of each run, one for each seed set."""
    for several in records:
        for index, record in enumerate(several):
            suffix = f"-{record.seeds}" if index else ""
            write_record(to / f"{record.run_id}{suffix}.json", record)


def chosen_columns(names: Sequence[str], headline: str, spec: Spec) -> tuple[str, ...]:
    """The keys that `columns=...` names, without repetition. Raises UserError for an unknown one."""
    known = table_views.column_keys(list(dict.fromkeys([headline, *spec.metrics.names])))
    for name in names:
        if name not in known:
            raise unknown_name("column", name, known)
    return tuple(dict.fromkeys(names))


def _status(
    view: table_views.TableView, folder: Path | None, references: Mapping[str, Record], *, as_published: bool
) -> int:
    off = [row for row in view.rows if row.off]
    if off:
        print(
            f"{len(off)} of {len(view.rows)} rows are off their reference or published values",
            file=sys.stderr,
        )
        return 1
    if folder is None:
        compared = sum(value.within is not None for row in view.rows for value in row.published.values())
        print(
            f"{compared} published values compared, all within tolerance"
            if compared
            else "nothing to compare with"
        )
        return 0
    unknown = [row for row in view.rows if not row.reproduction]
    if as_published and unknown:
        print(f"{len(unknown)} of {len(view.rows)} rows have no record in {folder}", file=sys.stderr)
        return 1
    reproduced = sum("within" in row.reproduction for row in view.rows)
    if reproduced:
        print(f"{reproduced} of {len(view.rows)} rows reproduced; reference records: {folder}")
    if reproduced < len(view.rows):
        print(
            f"{len(view.rows) - reproduced} of {len(view.rows)} rows are not compared with the reference "
            f"records in {folder}: those have other settings, or another number of images"
        )
    return 0


def shifted(spec: RunSpec, index: int) -> RunSpec:
    """The same run on the index-th following set of as many seeds."""
    first, last = spec.seed_range[0], spec.seed_range[-1]
    step = index * (last - first + 1)
    return dataclasses.replace(spec, seeds=f"{first + step}-{last + step}") if index else spec


def _shifted(spec: Spec, index: int) -> Spec:
    if isinstance(spec, RunSpec):
        return shifted(spec, index)
    if index:
        raise UserError(f"sets is more than 1, but '{spec.images}' is one set of images; use sets=1")
    return spec


def _compute_rows(
    content: TableFile, sets: Sequence[Sequence[Spec]], sampling: bool, tracker: Tracker
) -> dict[str, list[Record]]:
    """The runs' records of every seed set, from earlier launches or computed now; none on a silent rank."""
    prepare(sets[0])
    computed = []
    for specs in sets:
        records = compute_records(
            tables.pairs(specs), title=f"table {content.name}", tracker=tracker, sampling=sampling
        )
        if records is not None:
            computed.append([records[spec.run_id] for spec in specs])
    return _by_run(sets[0], computed)


def _by_run(specs: Sequence[Spec], sets: Sequence[Sequence[Record]]) -> dict[str, list[Record]]:
    """The records of each run by run_id, one for each seed set; empty without sets."""
    several = zip(*sets, strict=True)
    return {spec.run_id: list(records) for spec, records in zip(specs, several, strict=False)}


def first_images(spec: Spec, count: int) -> np.ndarray | None:
    """The first images, uint8 [N, H, W, C], or None where they are not kept."""
    if isinstance(spec, SetSpec):
        return first_of_set(spec, count)
    first = spec.seed_range[0]
    few = dataclasses.replace(spec, seeds=f"{first}-{min(spec.seed_range[-1], first + count - 1)}")
    if unfinished(few, features=False):
        return None
    return np.stack([image for _, image, _ in images_of(few)])


def _sample_sheet(
    content: TableFile,
    specs: Sequence[Spec],
    view: table_views.TableView,
    path: Path,
    tracker: Tracker,
    style: Style,
) -> None:
    """The first seeds of every unguided row side by side, where their images are still kept.

    With the table's sheet_nfe only rows of that many evaluations.
    """
    only = content.sheet_nfe
    shown = {}
    for spec, row in zip(specs, view.rows, strict=True):
        wanted = isinstance(spec, SetSpec) or (not spec.guidance.active and only in (None, row.cost))
        images = first_images(spec, SHEET_COLUMNS) if wanted else None
        if images is not None:
            steps = "" if only or row.steps is None else f"{row.steps} steps, "
            shown[f"{steps}{row.method}"] = images
    if shown:
        first = next((spec for spec in specs if isinstance(spec, RunSpec)), specs[0])
        seeds = first.seed_range[:SHEET_COLUMNS]
        cost = f" of {only:g} evaluations" if only else ""
        title = f"{content.name}: one seed a column, one method{cost} a row"
        sheet = table_figures.sample_sheet(shown, title, [str(seed) for seed in seeds], style)
        write_atomic(path, table_figures.to_bytes(sheet, "png"))
        tracker.samples(shown, seeds)
