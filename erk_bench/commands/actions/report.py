"""`erk-bench report`: gather records, tables, grids and images, then write the site."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from erk_bench.base.config_files import config_folder
from erk_bench.base.errors import UserError
from erk_bench.base.progress import progress_bar
from erk_bench.base.untrusted import visible
from erk_bench.commands.actions.report_samples import strips_of
from erk_bench.commands.actions.report_studies import Collection, studies_of
from erk_bench.commands.compose_words import words_of
from erk_bench.commands.report import ReportOptions
from erk_bench.reporting.site.build import check_installed, write_site
from erk_bench.reporting.site.content import (
    ShownIn,
    SiteContent,
    SiteRecord,
    methods_of,
    page_names,
)
from erk_bench.reporting.site.folder import SiteFolder
from erk_bench.runs.record_folder import MANIFEST, RECORDS, Records, load_records
from erk_bench.runs.records import record_text
from erk_bench.spec import RunSpec, Spec
from erk_bench.studies.compared import RULES, facts_of, metric_facts


def report(options: ReportOptions, words: Sequence[str]) -> int:
    """Run `erk-bench report`."""
    check_installed()
    to = Path(options.to).expanduser()
    folder = SiteFolder(to)
    found = load_records(words or [_default_place()])
    content = site_content(found, samples=options.samples)
    for note in content.notes:
        print(f"warning: {visible(note)}", file=sys.stderr)
    count = len(content.records)
    with progress_bar("writing pages", count, count, shown=True, unit="records") as bar:
        write_site(content, folder, lambda number: bar(number, number))
    skipped = f"; {found.skipped} other JSON files are no records" if found.skipped else ""
    damaged = f"; {len(found.damaged)} damaged records are left out" if found.damaged else ""
    print(
        f"{_counted(count, 'record')}, {_counted(len(content.tables), 'table')}, "
        f"{_counted(len(content.grids), 'grid')}, "
        f"{_counted(sum(record.strip is not None for record in content.records), 'record')} with images"
        f"{skipped}{damaged}; open {to / 'index.html'}"
    )
    return 0


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _default_place() -> Path:
    """The results of the working folder, else the records that ship with erk-bench."""
    return Path("results") if Path("results").is_dir() else config_folder().parent / "results" / "records"


def site_content(found: Records, *, samples: int | None = None) -> SiteContent:
    """Everything that the site of these records shows. samples: see ReportOptions."""
    records = _site_records(found)
    collections = _collections(records)
    studies = studies_of(collections)
    places: dict[str, list[ShownIn]] = {}
    commands: dict[str, list[str]] = {}
    for table in studies.tables:
        for number, page in enumerate(table.ids):
            places.setdefault(page, []).append(
                ShownIn(f"tables/{table.page}.html", table.view.title, f"row {number}")
            )
    for grid in studies.grids:
        for page in grid.ids.values():
            places.setdefault(page, []).append(ShownIn(f"grids/{grid.page}.html", grid.view.title, "a cell"))
    for page, lines in studies.commands:
        commands.setdefault(page, []).append(lines)
    strips = strips_of(records, samples)
    records = [
        dataclasses.replace(
            record,
            commands=(*_commands(record.source), *dict.fromkeys(commands.get(record.id, ()))),
            places=tuple(places.get(record.id, ())),
            strip=strips.get(record.id),
        )
        for record in records
    ]
    metrics = dict.fromkeys(name for record in records for name in record.record.metrics)
    return SiteContent(
        records,
        studies.tables,
        studies.grids,
        {name: metric_facts(name) for name in metrics},
        RULES,
        studies.notes,
    )


def _site_records(found: Records) -> list[SiteRecord]:
    """Records of equal content are one, which lies in several files."""
    by_content: dict[tuple[str, str], list[int]] = {}
    for number, (record, file) in enumerate(zip(found, found.files, strict=True)):
        by_content.setdefault((_folder(file), record_text(record)), []).append(number)
    chosen = [numbers[0] for numbers in by_content.values()]
    sources = [found[number].source for number in chosen]
    ids = page_names([found[number].run_id for number in chosen])
    return [
        SiteRecord(
            id=page,
            record=found[number],
            source=source,
            method=method,
            files=tuple(found.files[each] for each in numbers),
            folder=_folder(found.files[number]),
            facts=facts_of(found[number]),
        )
        for page, number, source, method, numbers in zip(
            ids, chosen, sources, methods_of(sources), by_content.values(), strict=True
        )
    ]


def _folder(file: Path) -> str:
    """The folder of records, or of runs, that a record's file belongs to."""
    run = file.parent.parent
    in_run = file.parent.name == RECORDS and (run / MANIFEST).is_file()
    return str(run.parent if in_run else file.parent)


def _collections(records: Sequence[SiteRecord]) -> list[Collection]:
    """The records of each folder; of two of one run, measured alike, the first."""
    found: dict[str, Collection] = {}
    for record in records:
        members = found.setdefault(record.folder, Collection(record.folder, {})).members
        members.setdefault(record.record.key, record)
    return list(found.values())


def _commands(source: Spec) -> tuple[str, ...]:
    """What computes a record anew: a run, or the score of a set."""
    if isinstance(source, RunSpec):
        try:
            return (f"erk-bench run {shlex.join(words_of(source))}",)
        except UserError:  # a preset or a file that is not here
            return ()
    names = ",".join(source.metrics.names)
    reference = source.metrics.reference
    return (f"erk-bench score {shlex.join([source.images, reference, f'metrics={names}'])}",)
