"""What a site shows, gathered before a page is written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from erk_bench.reporting.grid_views import GridView
from erk_bench.reporting.row_names import CORRECTION_TITLES, GIVEN_IMAGES, guidance_name, row_names
from erk_bench.reporting.table_views import TableView
from erk_bench.runs.records import Record
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.spec import RunSpec, Spec

MOST_ID = 80  # characters of the name of a record's page


class Strip(NamedTuple):
    """The images of a record's first seeds side by side. png: the file. seeds: of each; size: of one, in
    pixels."""

    png: bytes
    seeds: tuple[int, ...]
    size: tuple[int, int]


class ShownIn(NamedTuple):
    """A page of the site that shows a record. row: as what, 'row 3'."""

    href: str
    title: str
    row: str


@dataclass(frozen=True)
class SiteRecord:
    """A record as the site shows it.

    id: of its page. method: what a table calls it. files: where it lies, all of the same content. folder: of
    records. facts: what comparing needs. commands: what reproduces it, a line each. strip: None where no
    images are kept. places: tables and grids that show it.
    """

    id: str
    record: Record
    source: Spec
    method: str
    files: tuple[Path, ...]
    folder: str
    facts: Mapping[str, str]
    commands: tuple[str, ...] = ()
    strip: Strip | None = None
    places: tuple[ShownIn, ...] = ()

    @property
    def run(self) -> RunSpec | None:
        """Its run; None of a set of images."""
        return self.source if isinstance(self.source, RunSpec) else None

    @property
    def model(self) -> str:
        return self.run.model.name if self.run else self.record.name

    @property
    def solver(self) -> str:
        """Its title, or the name of a user's own."""
        name = self.run.solver.name if self.run else GIVEN_IMAGES
        return (SOLVERS[name].title if name in SOLVERS else "") or name

    @property
    def guidance(self) -> str:
        return guidance_name(self.run) if self.run else GIVEN_IMAGES

    @property
    def correction(self) -> str:
        name = self.run.correction.name if self.run and self.run.correction.w_stiff else "none"
        return CORRECTION_TITLES.get(name, name)

    @property
    def board(self) -> tuple[str, str, int, str]:
        """What values must have in common to stand in one leaderboard: the reference's name and content,
        number of images, protocol of the metrics."""
        reference = self.record.reference
        # Errors to a converged solution need no reference; they are those of one model.
        name = Path(str(reference["name"])).name if "name" in reference else f"{self.model}, no reference"
        return (
            name,
            str(reference.get("sha256", "")),
            self.record.num_images,
            self.facts["protocol"],
        )


@dataclass(frozen=True)
class SiteTable:
    """A table's page. page: its file's stem. ids: the page of each row's record. figure: its abscissa."""

    page: str
    view: TableView
    ids: tuple[str, ...]
    folder: str
    command: str
    figure: str = "steps"


@dataclass(frozen=True)
class SiteGrid:
    """A grid's page. ids: the page of each cell's record, by run_id. notes: what was found."""

    page: str
    view: GridView
    notes: tuple[str, ...]
    ids: Mapping[str, str]
    folder: str
    command: str


@dataclass(frozen=True)
class SiteContent:
    """Everything that a site shows.

    metrics: how values of each are compared; rules: of all. notes: what could not be shown, a sentence each.
    """

    records: Sequence[SiteRecord]
    tables: Sequence[SiteTable]
    grids: Sequence[SiteGrid]
    metrics: Mapping[str, Mapping[str, Any]]
    rules: Mapping[str, Any]
    notes: Sequence[str] = field(default_factory=tuple)


def page_names(names: Sequence[str]) -> list[str]:
    """A file's stem for each name, plain characters only, no two the same even where case is ignored."""
    stems = [re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:MOST_ID].strip("._-") or "record" for name in names]
    taken: Counter[str] = Counter()
    found = list[str]()
    used = {stem.lower() for stem in stems}
    for stem in stems:
        taken[stem.lower()] += 1
        name, number = stem, taken[stem.lower()]
        while number > 1 and (name := f"{stem}-{number}").lower() in used:
            number += 1
        taken[stem.lower()] = number
        used.add(name.lower())
        found.append(name)
    return found


def methods_of(sources: Sequence[Spec]) -> list[str]:
    """What a table calls each: its method, or the name of a set."""
    names = iter(row_names([source for source in sources if isinstance(source, RunSpec)]))
    return [next(names).method if isinstance(source, RunSpec) else source.name for source in sources]
