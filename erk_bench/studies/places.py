"""Records by the place that a user names: a file, a run's folder, a folder of records, a set of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from erk_bench.base.errors import UserError
from erk_bench.runs.record_folder import MANIFEST, RECORDS, Records, checked, find_records
from erk_bench.runs.records import Record, read_record
from erk_bench.runs.set_block import open_for
from erk_bench.spec import SetSpec
from erk_bench.studies.comparison_names import NamedRecord


class Wanted(NamedTuple):
    """Which records of a place are meant: those of these seeds, and measured against this reference."""

    seeds: str | None = None
    reference: str | None = None

    def fits(self, record: Record) -> bool:
        named = record.reference.get("name", "")
        measured = self.reference is None or self.reference in (named, Path(named).name)
        return measured and self.seeds in (None, record.seeds)


def entries_at(place: str, *, out: str, wanted: Wanted) -> list[NamedRecord]:
    """The records of a place; of a run or a set of images one.

    out: the folder of runs, in which a run may be named by its id alone, and in which the record of a set
    lies. Raises UserError for a place without such a record, saying how to get one, and for a run or set that
    has several.
    """
    path, runs = Path(place).expanduser(), Path(out).expanduser()
    if not path.exists() and (runs / place / MANIFEST).is_file():
        path = runs / place
    if (path / MANIFEST).is_file():
        if not any((path / RECORDS).glob("*.json")):
            raise UserError(f"the run '{path}' has no record yet; the command that began it scores it")
        return _one(_entries(checked(find_records([path]), [path])), f"the run '{path}'", wanted)
    if path.is_file() and path.suffix == ".json":
        return [NamedRecord(read_record(path), path)]
    if path.is_dir():
        found = find_records([path])
        if found or found.damaged:
            return _chosen(_entries(checked(found, [place])), f"'{place}'", wanted)
    if not path.exists() and not any(mark in place for mark in "*?[{"):
        raise UserError(
            f"'{place}' is not there; give a record file, a run's folder or its name in {out}, a folder of "
            "records, a row of a table as TABLE:ROW, or a set of images"
        )
    return _one(_of_set(place, runs), f"the set '{place}'", wanted)


def _entries(found: Records) -> list[NamedRecord]:
    return [NamedRecord(record, file) for record, file in zip(found, found.files, strict=True)]


def _chosen(entries: Sequence[NamedRecord], what: str, wanted: Wanted) -> list[NamedRecord]:
    chosen = [entry for entry in entries if wanted.fits(entry.record)]
    if not chosen:
        asked = ", ".join(f"{name}={value}" for name, value in wanted._asdict().items() if value)
        raise UserError(f"{what} has no record of {asked}; it has {_facts(entries)}")
    return chosen


def _one(entries: Sequence[NamedRecord], what: str, wanted: Wanted) -> list[NamedRecord]:
    chosen = _chosen(entries, what, wanted)
    if len(chosen) > 1:
        raise UserError(
            f"{what} has {len(chosen)} records, of {_facts(chosen)}; choose with seeds=FIRST-LAST or "
            f"reference=NAME, or name one of the files, such as {chosen[0].file}"
        )
    return chosen


def _facts(entries: Sequence[NamedRecord]) -> str:
    """Seeds and references of records, each once."""
    seeds = dict.fromkeys(entry.record.seeds for entry in entries)
    references = dict.fromkeys(entry.record.reference.get("name", "") for entry in entries)
    return f"seeds {', '.join(seeds)} and references {', '.join(references)}"


def _of_set(place: str, runs: Path) -> list[NamedRecord]:
    """The records of a set of images in the folder of runs, found by the set's content."""
    sha256 = open_for(place, str(runs), None).content_sha256
    found = []
    for entry in _entries(find_records(sorted(runs.glob("images-*")))):
        source = entry.record.source
        if isinstance(source, SetSpec) and source.sha256 == sha256:
            found.append(entry)
    if not found:
        raise UserError(
            f"the images '{place}' have no record in '{runs}'; score them first: erk-bench score "
            f"images={place} reference=REFERENCE, or say with out=FOLDER where they were scored"
        )
    return found
