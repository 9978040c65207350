"""From a site's content to its files."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from erk_bench.base.extras import need
from erk_bench.reporting.columns import Column
from erk_bench.reporting.grid_views import short
from erk_bench.reporting.site.content import SiteContent, SiteGrid, SiteRecord, SiteTable
from erk_bench.reporting.site.figures import grid_figures, table_figures
from erk_bench.reporting.site.folder import SiteFolder
from erk_bench.reporting.site.packing import flat, packed, script_json, shared
from erk_bench.reporting.table_views import DASH, columns_of, rounded

if TYPE_CHECKING:
    import jinja2

HERE = Path(__file__).parent


def check_installed() -> None:
    """Raise UserError naming the extra where what draws the pages is not installed."""
    for package in ("jinja2", "plotly"):
        need(package, "report")


def write_site(content: SiteContent, folder: SiteFolder, advance: Callable[[int], None]) -> None:
    """Every page, script and image of the site. advance: is told how many records were written."""
    import plotly.offline

    pages = _Pages(content)
    with folder:
        for file in sorted((HERE / "static").iterdir()):
            folder.write(f"assets/{file.name}", file.read_bytes())
        folder.write("assets/plotly.min.js", plotly.offline.get_plotlyjs().encode())
        folders = list(dict.fromkeys(record.folder for record in content.records))
        bases, packs = _packs(content.records, folders)
        common = {"bases": bases, "folders": folders, "metrics": content.metrics, "rules": content.rules}
        folder.write("data/common.js", _script("common", common))
        folder.write("data/index.js", _script("index", _index(content, folders)))
        folder.write("index.html", pages.page("index.html", "", notes=content.notes))
        folder.write("compare.html", pages.page("compare.html", ""))
        for table in content.tables:
            folder.write(f"tables/{table.page}.html", pages.table(table))
        for grid in content.grids:
            folder.write(f"grids/{grid.page}.html", pages.grid(grid))
        for record in content.records:
            folder.write(f"records/{record.id}.html", pages.page("record.html", "../", record=record))
            folder.write(f"records/{record.id}.js", _script("record", packs[record.id]))
            if record.strip:
                folder.write(f"images/{record.id}.png", record.strip.png)
            advance(1)


class _Pages:
    """The templates, filled in; every value is escaped."""

    def __init__(self, content: SiteContent) -> None:
        import jinja2

        loader = jinja2.FileSystemLoader(HERE / "templates")
        self._content = content
        self._templates: jinja2.Environment = jinja2.Environment(
            loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        self._get = functools.cache(self._templates.get_template)

    def page(self, template: str, root: str, **values: Any) -> bytes:
        """root: the way from the page to the site's first page."""
        text = self._get(template).render(
            root=root, made=self._made, version=importlib.metadata.version("erk-bench"),
            tables=self._content.tables, grids=self._content.grids, num_records=len(self._content.records),
            **values,
        )  # fmt: skip
        return text.encode(errors="backslashreplace")

    def table(self, table: SiteTable) -> bytes:
        columns = columns_of(table.view)
        figures = _json(table_figures(table))
        return self.page(
            "table.html", "../", table=table, columns=columns, rows=_cells(columns, table), figures=figures
        )

    def grid(self, grid: SiteGrid) -> bytes:
        view = grid.view
        best = {panel.best.point.run_id for panel in view.panels}
        rows = [
            {
                "id": grid.ids.get(point.run_id, ""),
                "best": point.run_id in best,
                "cells": [
                    *point.place.values(),
                    *(rounded(point.metrics[name]) for name in view.titles),
                    rounded(point.differences[view.headline], "+") if point.differences else DASH,
                    point.verdict or DASH,
                ],
            }
            for point in view.points
        ]
        titles = list(view.titles.values())
        headers = [*map(short, view.axes), *titles, f"Δ {titles[0]}", "verdict"]
        return self.page(
            "grid.html", "../", grid=grid, headers=headers, rows=rows, figures=_json(grid_figures(grid))
        )


def _cells(columns: Sequence[Column[Any]], table: SiteTable) -> list[dict[str, Any]]:
    """Of each row the page of its record, whether it is off, and its cells."""
    return [
        {"id": page, "off": row.off, "cells": [column.cell(row) for column in columns]}
        for row, page in zip(table.view.rows, table.ids, strict=True)
    ]


def _json(value: Any) -> Any:
    """JSON for a script in a page, which is escaped already."""
    import markupsafe

    return markupsafe.Markup(script_json(value))


def _script(function: str, value: Any) -> bytes:
    return f"Site.{function}({script_json(value)})\n".encode()


def _packs(
    records: Sequence[SiteRecord], folders: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the records of a model and guidance have in common, and of each record the rest, by its page."""
    groups: dict[tuple[str, ...], list[SiteRecord]] = {}
    for record in records:
        kind = (record.run.model.name, record.run.guidance.name) if record.run else ()
        groups.setdefault(kind, []).append(record)
    bases, packs = list[dict[str, Any]](), dict[str, Any]()
    for members in groups.values():
        found = shared(_values(record) for record in members)
        for record, (own, lacks) in zip(members, found.rest, strict=True):
            packs[record.id] = {
                "id": record.id, "base": len(bases), "own": own, "lacks": lacks, **_pack(record, folders),
            }  # fmt: skip
        bases.append(found.base)
    return bases, packs


def _values(record: SiteRecord) -> dict[str, Any]:
    """Settings, environment and the other facts of a record by dotted names, as its file has them."""
    content = record.record
    known = {item.name: getattr(content, item.name) for item in dataclasses.fields(content)}
    known = {name: value for name, value in known.items() if name not in ("metrics", "seconds_per_block")}
    return flat({**known, "facts": record.facts})


def _pack(record: SiteRecord, folders: Sequence[str]) -> dict[str, Any]:
    """What only this record has."""
    content = record.record
    times = list(content.seconds_per_block.values())
    found: dict[str, Any] = {
        "name": record.method, "folder": folders.index(record.folder),
        "files": [os.path.relpath(file, record.folder) for file in record.files],
        "metrics": {
            name: [metric.value, metric.standard_error, packed(metric.replicates, metric.value),
                   *([packed(metric.halves, metric.value)] if metric.halves else [])]
            for name, metric in content.metrics.items()
        },
        "commands": record.commands, **({"places": record.places} if record.places else {}),
    }  # fmt: skip
    if times:
        found["blocks"] = [len(times), median(times), min(times), max(times)]
    if record.strip:
        found["strip"] = [list(record.strip.seeds), *record.strip.size]
    return found


COLUMNS = (
    "id", "board", "name", "solver", "guidance", "correction", "steps", "nfe", "nfe_guide", "seconds",
    "seeds", "folder", "metrics",
)  # fmt: skip


def _index(content: SiteContent, folders: Sequence[str]) -> dict[str, Any]:
    """The leaderboards, and a row for each record, with its metrics in the order of its leaderboard's."""
    boards: dict[tuple[str, str, int, str], list[SiteRecord]] = {}
    for record in content.records:
        boards.setdefault(record.board, []).append(record)
    several = {key for key in boards if sum(other[0] == key[0] for other in boards) > 1}
    told = list[dict[str, Any]]()
    for number, (key, members) in enumerate(boards.items()):
        name, sha256, images, protocol = key
        title = f"{name}, {images:,} images"
        if protocol != "our own":
            title += f", protocol {protocol}"
        if key in several and len({other[1] for other in boards if other[0] == name}) > 1:
            title += f", reference {sha256[:8]}"
        metrics = dict.fromkeys(metric for record in members for metric in record.record.metrics)
        told.append({"id": f"board-{number}", "title": title, "metrics": list(metrics)})
    numbers = {key: number for number, key in enumerate(boards)}
    rows = []
    for record in content.records:
        number = numbers[record.board]
        rows.append(_row(record, number, told[number]["metrics"], folders.index(record.folder)))
    return {"boards": told, "columns": COLUMNS, "rows": rows}


def _row(record: SiteRecord, board: int, metrics: Sequence[str], folder: int) -> list[Any]:
    content = record.record
    seconds = content.seconds_per_1000
    return [
        record.id, board, record.method, record.solver, record.guidance, record.correction,
        record.run.schedule.num_steps if record.run else None,
        content.nfe if record.run else None, content.nfe_guide if record.run else None,
        None if seconds is None else _figures(seconds, 4), content.seeds, folder,
        [(found := content.metrics.get(name)) and
         [_figures(found.value, 9), _figures(found.standard_error, 5)] for name in metrics],
    ]  # fmt: skip


def _figures(value: float, count: int) -> float:
    return float(f"{value:.{count}g}")
