"""`erk-bench grid`: compute what is missing of a grid, show the best cells, draw the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table as RichTable

from erk_bench.base.console import wide_console
from erk_bench.base.files import write_atomic
from erk_bench.commands.actions.table import SHEET_COLUMNS, first_images
from erk_bench.commands.compose_studies import grid_cells, grid_file
from erk_bench.commands.grid import GridOptions
from erk_bench.commands.tracking import tracked
from erk_bench.reporting import grid_figures, table_figures
from erk_bench.reporting.grid_views import GridPoint, GridView, grid_csv, grid_markdown, label, short
from erk_bench.reporting.styles import SCREEN, Style, style_named
from erk_bench.reporting.table_views import DASH, rounded
from erk_bench.reporting.trackers import values as tracked_values
from erk_bench.reporting.trackers.tracker import Curve, CurvePoint, Tracker
from erk_bench.runs.records import Record, write_record
from erk_bench.runs.store import RunStore
from erk_bench.studies.grid import build_grid_view, summary
from erk_bench.studies.grid_file import Cell, Grid, trees
from erk_bench.studies.records import compute_records, prepare, read_records

SHOWN = 5  # cells of a panel that a terminal shows


def grid(options: GridOptions, settings: list[str]) -> int:
    """Run `erk-bench grid`."""
    grid, cells = grid_cells(grid_file(options.grid), settings, fetch=not options.from_)
    # Settings of axes are no settings of the tracker, and those with several values do not compose.
    tracking = [setting for setting in settings if setting.startswith("tracker")]
    specs = [spec for group in trees(cells) for spec in group]
    with tracked("grid", grid.name, specs, tracking) as tracker:
        return show_grid(grid, cells, options, tracker)


def show_grid(grid: Grid, cells: Sequence[Cell], options: GridOptions, tracker: Tracker) -> int:
    """Records of all cells and their baselines, computed or read; then the table and figures."""
    groups = trees(cells)
    specs = [spec for group in groups for spec in group]
    style = style_named(options.style)
    if options.from_:
        records = {record.run_id: record for record in read_records(specs, options.from_)}
    else:
        prepare(specs)
        title = f"grid {grid.name}, {len(cells)} cells"
        computed = compute_records(
            groups, title=title, tracker=tracker, shared=True, sampling=options.sampling
        )
        if computed is None:
            return 0
        records = computed
    if options.records:
        for record in records.values():
            write_record(Path(options.records) / f"{record.run_id}.json", record)
    if not options.views:
        print(f"{len(cells)} cells of grid {grid.name} are done")
        return 0
    view = build_grid_view(grid, cells, records)
    notes = summary(grid, view)
    to = Path(options.to or Path(specs[0].out) / "grids").expanduser()
    pictures = write_views(view, notes, to, grid.name, style)
    _track_best(view, cells, records, tracker, kept=not options.from_)
    tracker.cells(grid_csv(view))
    tracker.summary(winners(view))
    tracker.curves(grid.name, _curves(view))
    for path in pictures:
        if path.suffix == ".png":
            tracker.picture(path.stem, path)
    _show(view, notes)
    print(f"table, CSV and figures: {to}/{grid.name}*")
    return 0


def write_views(view: GridView, notes: list[str], to: Path, name: str, style: Style = SCREEN) -> list[Path]:
    """The grid's CSV, Markdown table and figures; returns the pictures."""
    write_atomic(to / f"{name}.csv", grid_csv(view).encode())
    write_atomic(to / f"{name}.md", grid_markdown(view, notes).encode())
    pictures = []
    for kind, draw in grid_figures.FIGURES.items():
        for form in style.forms:
            path = to / f"{name}-{kind}.{form}"
            write_atomic(path, table_figures.to_bytes(draw(view, style), form))
            pictures.append(path)
    return pictures


def _track_best(
    view: GridView, cells: Sequence[Cell], records: Mapping[str, Record], tracker: Tracker, *, kept: bool
) -> None:
    """The records of each panel's best cell and its baseline, and where images are kept some side by side."""
    by_run = {cell.spec.run_id: cell for cell in cells}
    sheet = {}
    for panel in view.panels:
        cell = by_run.get(panel.best.point.run_id)
        if cell is None:  # the plain solver is best
            continue
        told = _against_plain(view, panel.best.point)
        for name, spec, facts in (("plain", cell.spec.baseline, {}), ("best", cell.spec, told)):
            tracker.record(records[spec.run_id], RunStore.folder_of(spec) if kept else None, facts)
            images = first_images(spec, SHEET_COLUMNS) if kept else None
            if images is not None:
                sheet[f"{label(panel.place)} {name}".strip()] = images
    if sheet:
        tracker.samples(sheet, cells[0].spec.seed_range[:SHEET_COLUMNS])


def _against_plain(view: GridView, point: GridPoint) -> dict[str, float | str]:
    return tracked_values.compared(point.differences.get(view.headline), point.verdict)


def winners(view: GridView) -> dict[str, float | str]:
    """Each panel's best cell for a summary: where it lies, its metrics, and how it compares."""
    found: dict[str, float | str] = {}
    for panel in view.panels:
        point = panel.best.point
        inside = {key: value for key, value in point.place.items() if key not in panel.place}
        facts = {**{short(key): value for key, value in inside.items()}, **_against_plain(view, point)}
        found |= tracked_values.winner(label(inside), point.metrics, facts, label(panel.place))
    return found


def _curves(view: GridView) -> list[Curve]:
    """A curve for each value of the curves' axis in each panel, where the abscissa has numbers."""
    found = []
    for panel in view.panels:
        for value in view.axes[view.curves] if view.curves else ("",):
            points = [point for point in panel.points if not view.curves or point.place[view.curves] == value]
            facts = {short(key): text for key, text in panel.place.items()}
            if view.curves:
                facts[short(view.curves)] = value
            try:
                along = [CurvePoint(float(point.place[view.x]), point.metrics) for point in points]
            except ValueError:
                return []  # names of solvers, say: a figure shows them, a curve cannot
            found.append(
                Curve(label({view.curves: value} if view.curves else {}), facts, short(view.x), along)
            )
    return found


def _show(view: GridView, notes: Sequence[str]) -> None:
    """The best few cells of each panel, and what follows from them."""
    headline = view.headline
    inner = [key for key in (view.curves, view.x) if key]
    table = RichTable(title=view.title, caption=view.caption, caption_justify="left")
    for header in ("", *(short(key) for key in inner), *view.titles.values(), f"Δ {view.titles[headline]}"):
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    table.add_column("verdict")
    for panel in view.panels:
        sign = 1 if view.lower[headline] else -1
        ranked = sorted(panel.points, key=lambda point: sign * point.metrics[headline][0])
        plain = [rounded(panel.baseline[name]) if panel.baseline else DASH for name in view.titles]
        table.add_row(
            label(panel.place), *("plain" for _ in inner[:1]), *("" for _ in inner[1:]), *plain, "", ""
        )
        for point in ranked[:SHOWN]:
            style = {"better": "green", "worse": "red"}.get(point.verdict, "")
            table.add_row(
                "", *(point.place[key] for key in inner),
                *(rounded(point.metrics[name]) for name in view.titles),
                rounded(point.differences[headline], "+") if point.differences else "", point.verdict,
                style=style,
            )  # fmt: skip
        if len(ranked) > SHOWN:
            table.add_row(f"and {len(ranked) - SHOWN} more cells")
        table.add_section()
    wide_console().print(table)
    for note in notes:
        print(note)
