"""What records are called beside each other: what they differ in, and what they have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from erk_bench.reporting.row_names import guidance_name, row_names
from erk_bench.runs.records import Record
from erk_bench.spec import RunSpec, SetSpec

KEPT = 1  # the part of a run's name that stands alone where runs differ in nothing: the method


class NamedRecord(NamedTuple):
    """A record to be compared, where it lies, and what a table calls it ("" where none does)."""

    record: Record
    file: Path
    label: str = ""


class RecordNames(NamedTuple):
    """each: a name for every record, no two the same. common: what all have in common, "" for nothing."""

    each: list[str]
    common: str


def names_of(entries: Sequence[NamedRecord]) -> RecordNames:
    """Short names: of runs their method and what else they differ in, of sets their own names."""
    sources = [entry.record.source for entry in entries]
    runs = [source for source in sources if isinstance(source, RunSpec)]
    methods = iter(row_names(runs))
    parts = []
    for source in sources:
        if isinstance(source, SetSpec):
            parts.append([source.name])
        else:
            parts.append([
                source.model.name, next(methods).method, f"{source.schedule.num_steps} steps",
                guidance_name(source), f"seeds {source.seeds}",
            ])  # fmt: skip
    common: list[str] = []
    if len(runs) == len(entries):
        shared = [len({each[place] for each in parts}) == 1 for place in range(len(parts[0]))]
        common = [text for text, same in zip(parts[0], shared, strict=True) if same]
        if all(shared):
            shared[KEPT] = False
        parts = [[text for text, same in zip(each, shared, strict=True) if not same] for each in parts]
    called = [entry.label or ", ".join(each) for entry, each in zip(entries, parts, strict=True)]
    return RecordNames(_apart(called, entries), ", ".join(common))


def _apart(names: Sequence[str], entries: Sequence[NamedRecord]) -> list[str]:
    """The names, those that stand more than once with their seeds, file or number."""
    found = list(names)
    for more in (
        [f"seeds {entry.record.seeds}" for entry in entries],
        [entry.file.name for entry in entries],
        [entry.file.parent.name for entry in entries],
        [str(entry.file) for entry in entries],
        [str(number + 1) for number in range(len(entries))],
    ):
        texts: dict[str, set[str]] = {}
        for name, text in zip(found, more, strict=True):
            texts.setdefault(name, set()).add(text)
        count = Counter(found)
        found = [
            f"{name}, {text}" if count[name] > 1 and len(texts[name]) > 1 else name
            for name, text in zip(found, more, strict=True)
        ]
    return found
