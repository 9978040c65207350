"""Records of files and folders, searched with their sub-folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from erk_bench.base.errors import UserError
from erk_bench.base.untrusted import parse_json, visible
from erk_bench.runs import record_frame
from erk_bench.runs.records import FORMAT, Record, read_record

if TYPE_CHECKING:
    import pandas

RECORDS = "records"  # folder of a run that holds its records
MANIFEST = "run.json"  # what the folder of a run has
KIND = FORMAT.rpartition(" ")[0]  # what the format of every version begins with
START = 4096  # bytes in which a damaged record still names its run
MOST_NAMED = 5  # damaged records that are named one by one


@dataclass(frozen=True)
class Records(Sequence[Record]):
    """Records in the order of their files.

    files: where each lies. skipped: JSON files that are no records. damaged: what is wrong with the records
    that cannot be read, a line each.
    """

    records: tuple[Record, ...]
    files: tuple[Path, ...]
    skipped: int = 0
    damaged: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return Records(self.records[index], self.files[index])
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"<{len(self)} records, {self.skipped} other files, {len(self.damaged)} damaged>"

    def to_frame(self, *settings: str) -> pandas.DataFrame:
        """A pandas.DataFrame with a row for each record, see `record_frame`.

        settings: names of more settings to have as columns, such as "schedule.rho". Raises UserError for
        unknown ones, and where pandas is not installed.
        """
        return record_frame.to_frame(self.records, self.files, settings)


def load_records(places: str | Path | Iterable[str | Path]) -> Records:
    """The records at one or several places.

    places: a record file; a run's folder; a folder of records, which is searched with its sub-folders. What
    is no record is skipped and counted. A damaged record in a folder is skipped with a warning. Raises
    UserError for a place that is not there, a file that is no record, and where there is no record at all.
    """
    several = [places] if isinstance(places, (str, Path)) else list(places)
    return checked(find_records(several), several)


def checked(found: Records, places: Sequence[str | Path]) -> Records:
    """The records found at places, damaged ones told. Raises UserError where there are none."""
    for line in found.damaged[:MOST_NAMED]:
        print(f"warning: {visible(line)}", file=sys.stderr)
    if len(found.damaged) > MOST_NAMED:
        print(f"warning: {len(found.damaged) - MOST_NAMED} more damaged records", file=sys.stderr)
    if not found:
        named = ", ".join(f"'{place}'" for place in places) or "no place"
        raise UserError(
            f"there are no records in {named} ({found.skipped} other JSON files, {len(found.damaged)} "
            "damaged records); give a record file, a run's folder or a folder of records"
        )
    return found


def find_records(places: Iterable[str | Path]) -> Records:
    """As `load_records`, without a word, and there need be none."""
    records: dict[Path, Record] = {}
    skipped, damaged = 0, list[str]()
    for place in places:
        path = Path(place).expanduser()
        if path.is_file():
            records.setdefault(path, read_record(path))
            continue
        if not path.is_dir():
            raise UserError(
                f"'{place}' is not there; give a record file, a run's folder or a folder of records"
            )
        for file in _json_files(path, damaged):
            if file in records:
                continue
            try:
                records[file] = read_record(file)
            except UserError as error:
                if _is_damaged_record(file):
                    damaged.append(str(error))
                else:
                    skipped += 1
    return Records(tuple(records.values()), tuple(records), skipped, tuple(damaged))


def _json_files(folder: Path, problems: list[str]) -> Iterator[Path]:
    """The JSON files of a folder and its sub-folders, in order; of a run's folder those of its records."""

    def unreadable(error: OSError) -> None:
        problems.append(f"'{error.filename}' cannot be read: {error.strerror}")

    for place, folders, files in os.walk(folder, onerror=unreadable):
        if MANIFEST in files:  # images and features have thousands of files
            folders[:] = [name for name in folders if name == RECORDS]
            files.remove(MANIFEST)
        folders.sort()
        yield from (Path(place) / name for name in sorted(files) if name.endswith(".json"))


def _is_damaged_record(file: Path) -> bool:
    """Whether an unreadable file was a record: by its format, or by its beginning where it is no JSON."""
    try:
        text = file.read_bytes()
        content: Any = parse_json(text)
    except (OSError, ValueError):
        # A record names its run at its beginning. An empty one was cut off before that.
        return not file.is_file() or file.stat().st_size == 0 or b'"run_id"' in text[:START]
    if not isinstance(content, dict):
        return False
    return str(content.get("format", "")).startswith(KIND) or {"run_id", "spec", "metrics"} <= set(content)
