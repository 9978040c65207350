"""Views of grids from records alone: the best cell and its distance, Markdown, CSV, figures."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from matplotlib.colors import TwoSlopeNorm

from erk_bench.base.fields import to_dict
from erk_bench.cli import main
from erk_bench.reporting import grid_figures, table_figures
from erk_bench.reporting.grid_views import grid_csv, grid_markdown
from erk_bench.reporting.table_views import rounded
from erk_bench.runs.records import MetricRecord, Record
from erk_bench.spec import RunSpec
from erk_bench.studies.grid import build_grid_view, summary
from erk_bench.studies.grid_file import Cell
from tests.test_grid_command import CONTENT, METRICS, STEPS, W_CON, W_STIFF, Small, make_small


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return make_small(tmp_path)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The grid of CONTENT, computed; tests only read it."""
    made = make_small(tmp_path_factory.mktemp("computed"))
    assert main(made.words) == 0
    return made


def test_views_from_records_alone(
    computed: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same files, with neither images nor features at hand."""
    records = computed.folder / "records"
    words = ["grid", f"grid={computed.file}", f"out={tmp_path / 'none'}", f"to={tmp_path / 'views'}"]
    assert main([*words, f"from={records}"]) == 0
    assert not (tmp_path / "none").exists()
    capsys.readouterr()
    drawn = {path.name: path for path in (tmp_path / "views").iterdir()}
    assert drawn.keys() == {
        "small.csv", "small.md", *(f"small-{kind}.{form}" for kind in ("curves", "heat", "parallel")
                                   for form in ("png", "svg")),
    }  # fmt: skip
    for name in ("small.csv", "small.md"):
        assert drawn[name].read_bytes() == (computed.folder / "runs" / "grids" / name).read_bytes()
    assert main([*words, f"from={records}", f"{W_STIFF}=0.5,1,2"]) == 2
    assert "2 of 7 runs have no record" in capsys.readouterr().err
    assert main([*words, f"from={tmp_path / 'empty'}"]) == 2
    assert "5 of 5 runs have no record" in capsys.readouterr().err


def test_csv_has_the_records_numbers(computed: Small) -> None:
    with (computed.folder / "runs" / "grids" / "small.csv").open() as file:
        rows = list(csv.DictReader(file))
    _, cells = computed.cells(f"out={computed.folder / 'runs'}")
    assert len(rows) == len(cells) == 4
    for row, cell in zip(rows, cells, strict=True):
        record, base = computed.record(cell.spec), computed.record(cell.spec.baseline)
        assert {key: row[key] for key in cell.place} == cell.place
        assert (row["run_id"], int(row["nfe"]), int(row["nfe_guide"])) == (cell.spec.run_id, 7, 0)
        for name in METRICS:
            mine, other = record.metrics[name], base.metrics[name]
            assert float(row[name]) == mine.value and float(row[f"{name}_se"]) == mine.standard_error
            assert float(row[f"{name}_baseline"]) == other.value
            assert float(row[f"{name}_baseline_se"]) == other.standard_error
            assert float(row[f"{name}_difference"]) == mine.value - other.value
            if mine.halves:
                error = np.subtract(mine.halves, other.halves).std()
            else:
                gaps = np.subtract(mine.replicates, other.replicates)
                error = np.sqrt((len(gaps) - 1) / len(gaps) * ((gaps - gaps.mean()) ** 2).sum())
            assert float(row[f"{name}_difference_se"]) == pytest.approx(error, rel=1e-12)
    values = [float(row["fd_digits"]) for row in rows]
    assert [int(row["best"]) for row in rows] == [int(value == min(values)) for value in values]


def test_markdown_has_a_line_for_each_cell(computed: Small) -> None:
    text = (computed.folder / "runs" / "grids" / "small.md").read_text()
    assert text.startswith("# A small grid\n\n- 4 steps: best FD-digits ")
    _, cells = computed.cells()
    records = [computed.record(cell.spec) for cell in cells]
    best = min(records, key=lambda record: record.metrics["fd_digits"].value)
    lines = [line for line in text.splitlines() if line.startswith("| 4 |")]
    assert len(lines) == 4
    for line, cell, record in zip(lines, cells, records, strict=True):
        shown = {name: rounded((item.value, item.standard_error)) for name, item in record.metrics.items()}
        value = f"**{shown['fd_digits']}**" if record is best else shown["fd_digits"]
        wanted = f"| 4 | {cell.place[W_STIFF]} | {cell.place[W_CON]} | {value} | {shown['recall_digits']} | "
        assert line.startswith(wanted)


def made_record(spec: RunSpec, **values: float) -> Record:
    """A record of two jackknife groups; equal replicates in all of them give differences no error."""
    return Record(
        run_id=spec.run_id,
        spec=to_dict(spec),
        seeds=spec.seeds,
        num_images=40,
        nfe=7,
        nfe_guide=0,
        metrics={name: MetricRecord(value, 0.5, (value, value + 1.0)) for name, value in values.items()},
        seconds_per_block={},
        reference={},
        detectors=(),
        environment={},
    )


def spread(record: Record, gap: float) -> Record:
    """The record with replicates that lie further apart."""
    metrics = {
        name: dataclasses.replace(item, replicates=(item.value, item.value + 1.0 + gap))
        for name, item in record.metrics.items()
    }
    return dataclasses.replace(record, metrics=metrics)


def made_records(cells: list[Cell], values: list[float], plain: float, **others: float) -> dict[str, Record]:
    found = {}
    for cell, value in zip(cells, values, strict=True):
        base = cell.spec.baseline
        found[cell.spec.run_id] = made_record(cell.spec, fd_digits=value, recall_digits=0.5, **others)
        if base.run_id != cell.spec.run_id:
            found[base.run_id] = made_record(base, fd_digits=plain, recall_digits=0.4, **others)
    return found


def test_summary_names_the_best_and_its_distance(small: Small) -> None:
    grid, cells = small.cells()
    records = made_records(cells, [5.0, 3.0, 4.0, 6.0], 7.0)
    best = cells[1].spec.run_id
    records[best] = spread(records[best], 1.0)
    view = build_grid_view(grid, cells, records)
    # Replicates of differences are g and g + 1: the jackknife error of two groups is half their distance.
    assert summary(grid, view) == [
        "4 steps: best FD-digits 3 at w_stiff 0.5, w_con 0.5, -4 ± 0.5 against the plain solver (better); "
        "next w_stiff 1, w_con 0 is 2.0 standard errors away"
    ]
    assert [point.verdict for point in view.points] == ["better"] * 4
    assert view.panels[0].best.margin == (1.0, 0.5)


def test_summary_skips_ties(small: Small) -> None:
    """Cells that equal the best one, because no gate differs, are no runner-up."""
    grid, cells = small.cells()
    view = build_grid_view(grid, cells, made_records(cells, [3.0, 3.0, 3.0, 6.0], 3.0))
    best = view.panels[0].best
    assert best.runner_up is not None and best.runner_up.run_id == cells[3].spec.run_id
    (line,) = summary(grid, view)
    assert "at w_stiff 0.5, w_con 0, +0 ± 0 against the plain solver (not resolved)" in line
    assert line.endswith("next w_stiff 1, w_con 0.5 is 3 away, without error")
    equal = build_grid_view(grid, cells, made_records(cells, [3.0] * 4, 3.0))
    assert equal.panels[0].best[1:] == (None, None)
    assert "next" not in summary(grid, equal)[0]


def test_summary_of_a_metric_that_should_be_high(small: Small) -> None:
    grid, cells = small.cells()
    grid = dataclasses.replace(grid, panels=("recall_digits", "fd_digits"))
    records = made_records(cells, [1.0] * 4, 1.0)
    records[cells[2].spec.run_id] = made_record(cells[2].spec, fd_digits=9.0, recall_digits=0.9)
    records[cells[3].spec.run_id] = made_record(cells[3].spec, fd_digits=0.1, recall_digits=0.1)
    view = build_grid_view(grid, cells, records)
    assert summary(grid, view)[0].startswith("4 steps: best recall 0.9 at w_stiff 1, w_con 0, +0.5 ± 0")
    assert [point.verdict for point in view.points] == ["better", "better", "better", "worse"]


@pytest.mark.parametrize(
    ("overrides", "lowest", "scale"),
    [
        # Two panels, values on the abscissa that crowd, metrics of both signs (as KID has).
        ([f"{STEPS}=4,6", f"{W_CON}=0,0.1,0.11,10"], -2.0, 1.0),
        ([f"{STEPS}=4", f"{W_STIFF}=1", f"{W_CON}=0.5"], 1.0, 1.0),  # a single cell
        ([f"{W_STIFF}=1"], 1.0, 100.0),  # a single curve, on a logarithmic axis
    ],
)
@pytest.mark.slow
def test_figures_are_drawn(overrides: list[str], lowest: float, scale: float, small: Small) -> None:
    plt.close("all")  # those of other tests
    grid, cells = small.cells(*overrides)
    values = [lowest + scale * number for number in range(len(cells))]
    view = build_grid_view(grid, cells, made_records(cells, values, 3.0))
    for draw in (grid_figures.curves_figure, grid_figures.heat_figure, grid_figures.parallel_figure):
        data = table_figures.to_bytes(draw(view), "png")
        pixels = plt.imread(io.BytesIO(data))[..., :3].reshape(-1, 3)
        assert len(np.unique(pixels, axis=0)) > 20, draw.__name__
    assert not plt.get_fignums()  # all closed again


def test_a_grid_without_corrections(small: Small) -> None:
    """Solvers by name over steps: every cell is its own baseline, and nothing is compared with it."""
    content = {**CONTENT, "base": [word for word in CONTENT["base"] if word != "correction=erk_guid"],
               "axes": {STEPS: [4, 6], "solver": ["euler", "heun"]}}  # fmt: skip
    small.file.write_text(yaml.safe_dump(content, sort_keys=False))
    grid, cells = small.cells()
    assert (grid.x, grid.curves, grid.others) == ("solver", STEPS, ())
    view = build_grid_view(grid, cells, made_records(cells, [5.0, 4.0, 3.0, 2.0], 0.0))
    assert summary(grid, view) == [
        "best FD-digits 2 at 6 steps, solver heun; next 6 steps, solver euler is 1 away, without error"
    ]
    assert all(not point.differences and not point.verdict for point in view.points)
    lines = grid_csv(view).splitlines()
    assert lines[1].startswith("4,euler,7,0,5.0,0.5,5.0,0.5,,,") and lines[4].split(",")[-2] == "1"
    assert "| 6 | heun | **2.00 ± 0.50** | 0.50 ± 0.50 | – | – |" in grid_markdown(view, [])


def test_curves_show_the_numbers(small: Small) -> None:
    """Points stand at their w_con and value; the plain solver is a level line; the best is starred."""
    grid, cells = small.cells()
    view = build_grid_view(grid, cells, made_records(cells, [5.0, 3.0, 4.0, 6.0], 7.0))
    figure = grid_figures.curves_figure(view)
    left, right = figure.axes
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in left.get_lines()]
    for wanted in (([0.0, 0.5], [5.0, 3.0]), ([0.0, 0.5], [4.0, 6.0]), ([0.0, 0.5], [7.0, 7.0])):
        assert wanted in lines
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in left.get_lines()
            if line.get_marker() == "*"] == [(0.5, 3.0)]  # fmt: skip
    assert left.get_title() == "4 steps" and left.get_ylabel() == "FD-digits (lower is better)"
    assert right.get_ylabel() == "recall (higher is better)"
    assert table_figures.to_bytes(figure, "png").startswith(b"\x89PNG")


def test_colours_of_the_heat_map_point_the_right_way(small: Small) -> None:
    """Positive is worse than the plain solver whichever way the metric counts, also at or below 0."""
    grid, cells = small.cells()
    lower = build_grid_view(grid, cells, made_records(cells, [6.0, 1.5, 0.0, 3.0], 3.0))
    assert [grid_figures._colour(lower, point) for point in lower.points] == [1.0, -1.0, -6.0, 0.0]
    records = made_records(cells, [3.0] * 4, 3.0)
    for cell, value in zip(cells, (0.8, 0.2, 0.0, 0.4), strict=True):
        records[cell.spec.run_id] = made_record(cell.spec, fd_digits=3.0, recall_digits=value)
    higher = build_grid_view(dataclasses.replace(grid, panels=("recall_digits",)), cells, records)
    assert [grid_figures._colour(higher, point) for point in higher.points] == [-1.0, 1.0, 6.0, 0.0]
    image = grid_figures.heat_figure(lower).axes[0].get_images()[0]
    assert np.array_equal(image.get_array(), [[1.0, -1.0], [-6.0, 0.0]])
    assert isinstance(image.norm, TwoSlopeNorm) and image.norm.vcenter == 0
    plt.close("all")
