"""`erk-bench compare`: find the records of places, compare them, show and write the result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from erk_bench.base.console import wide_console
from erk_bench.base.errors import UserError
from erk_bench.base.files import write_atomic
from erk_bench.commands.compare import CompareOptions
from erk_bench.commands.compose_studies import table_file, table_specs
from erk_bench.commands.options import TABLE, is_whole
from erk_bench.reporting import comparison_views as views
from erk_bench.reporting.comparison_figures import forest_figure
from erk_bench.reporting.styles import Style, style_named
from erk_bench.reporting.table_figures import to_bytes
from erk_bench.runs.record_folder import find_records
from erk_bench.runs.records import RecordKey, read_record
from erk_bench.runs.score import record_path
from erk_bench.spec import RunSpec, SetSpec
from erk_bench.studies.compare import compare as compare_entries
from erk_bench.studies.comparison_names import NamedRecord
from erk_bench.studies.places import Wanted, entries_at
from erk_bench.studies.score_sets import set_name
from erk_bench.studies.table_file import RowSpec


def compare(options: CompareOptions, words: Sequence[str]) -> int:
    """Run `erk-bench compare`."""
    style = style_named(options.style)
    view = view_of(options, words)
    if options.to:
        _write(view, Path(options.to).expanduser(), style)
    views.print_comparison(view, wide_console())
    if options.to:
        print(f"table and figure: {options.to}/{view.name}*")
    return 0


def view_of(options: CompareOptions, words: Sequence[str]) -> views.ComparisonView:
    """The records at the places that the words name, compared."""
    if options.baseline and options.all_pairs:
        raise UserError("all_pairs compares every record with each; leave out baseline or all_pairs")
    entries = _once([entry for word in words for entry in _entries(word, options)])
    first = 0
    if options.baseline:
        given = _entries(options.baseline, options)
        if len(given) != 1:
            raise UserError(
                f"baseline '{options.baseline}' has {len(given)} records; name one of them, such as "
                f"{given[0].file}"
            )
        entries = _once([*entries, *given])
        first = [entry.file.resolve() for entry in entries].index(given[0].file.resolve())
    return compare_entries(entries, baseline=first, all_pairs=options.all_pairs, metrics=options.metrics)


def _once(entries: Sequence[NamedRecord]) -> list[NamedRecord]:
    """Each file once, by its first name."""
    found: dict[Path, NamedRecord] = {}
    for entry in entries:
        found.setdefault(entry.file.resolve(), entry)
    return list(found.values())


def _entries(place: str, options: CompareOptions) -> list[NamedRecord]:
    name, colon, rows = place.rpartition(":")
    numbers = all(is_whole(part) for part in re.split("[,-]", rows))
    if colon and numbers and not Path(place).expanduser().exists():
        return _of_rows(TABLE.parse("table", name), rows, options)
    return entries_at(place, out=options.out, wanted=Wanted(options.seeds, options.reference))


def _of_rows(name: str, rows: str, options: CompareOptions) -> list[NamedRecord]:
    """The records of rows of a table: of `from`, else of the folder of runs, else its reference records."""
    content = table_file(name)
    settings = [f"seeds={options.seeds}"] if options.seeds else []
    kept = _kept(options.from_.split(",") if options.from_ else ())
    of_places = dict[str, NamedRecord]()

    def of_set(row: RowSpec, _: RunSpec) -> SetSpec:
        called = row.label or set_name(row.images)
        found = [entry for entry in kept.values() if _is_set(entry) and entry.record.name == called]
        if not found:
            found = entries_at(row.images, out=options.out, wanted=Wanted(reference=options.reference))
        of_places[row.images] = found[0]
        source = found[0].record.source
        assert isinstance(source, SetSpec)
        return source

    chosen, specs = table_specs(content, settings, rows, of_set, fetch=False)
    reference = _kept([content.reference] if content.reference else ())
    found = []
    for row, spec in zip(chosen, specs, strict=True):
        key, own = RecordKey.of(spec), record_path(replace(spec, out=options.out))
        entry = of_places.get(row.images) or kept.get(key)
        if entry is None and own.is_file():
            entry = NamedRecord(read_record(own), own)
        entry = entry or reference.get(key)
        if entry is None:
            number = content.rows.index(row) if row in content.rows else rows
            raise UserError(
                f"row {number} of the table '{name}' ({spec.run_id}, seeds {spec.seeds}) has no record in "
                f"'{options.out}'; compute it: erk-bench table table={name} rows={number} out={options.out}, "
                "or say with from=FOLDER where its record is"
            )
        found.append(entry._replace(label=row.label))
    return found


def _kept(folders: Sequence[str]) -> dict[RecordKey, NamedRecord]:
    """The records of folders; of two of one run, measured alike, the first."""
    there = [folder for folder in folders if Path(folder).expanduser().exists()]
    records = find_records(there)
    entries = [NamedRecord(record, file) for record, file in zip(records, records.files, strict=True)]
    return {entry.record.key: entry for entry in reversed(entries)}


def _is_set(entry: NamedRecord) -> bool:
    return isinstance(entry.record.source, SetSpec)


def _write(view: views.ComparisonView, to: Path, style: Style) -> None:
    """The table as Markdown, CSV and LaTeX, and the forest plot."""
    for form, text in (("md", views.markdown), ("csv", views.to_csv), ("tex", views.latex)):
        write_atomic(to / f"{view.name}.{form}", text(view).encode(errors="backslashreplace"))
    for form in style.forms:
        write_atomic(to / f"{view.name}-forest.{form}", to_bytes(forest_figure(view, style), form))
