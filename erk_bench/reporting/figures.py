"""Pictures drawn from table rows and from samples."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from erk_bench.reporting.views import Estimate, TableRow, TableView

DODGE = 0.004  # of the cost, between neighbouring error bars
COLORS = ("#4c566a", "#d08770", "#5e81ac", "#a3be8c")


def steps_figure(view: TableView) -> Figure:
    """The headline metric against steps, one panel a guidance, one line a solver, with error bars."""
    panels = list(dict.fromkeys(row.guidance for row in view.rows))
    title = next(iter(view.rows[0].metrics.values()))[0]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4 * len(panels), 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        rows = [row for row in view.rows if row.guidance == panel]
        families = list(dict.fromkeys(row.method.split(" ")[0] for row in rows))
        for color, family in zip(itertools.cycle(COLORS), families, strict=False):
            points = [row for row in rows if row.method.split(" ")[0] == family]
            estimates = [next(iter(row.metrics.values()))[1] for row in points]
            # Rows of one step count have no line through them.
            several = len({row.steps for row in points}) < len(points)
            axis.errorbar(
                [row.steps for row in points],
                [value for value, _ in estimates],
                yerr=[error for _, error in estimates],
                marker="o", capsize=3, linestyle="none" if several else "-", label=family, color=color,
            )  # fmt: skip
        _log_axes(axis, panel, "steps", sorted({row.steps for row in rows}))
    axes[0][0].set_ylabel(f"{title} ({'lower' if view.lower else 'higher'} is better)")
    axes[0][0].legend()
    figure.suptitle(view.title, fontsize=11)
    return figure


def nfe_figure(view: TableView) -> Figure:
    """The headline metric against evaluations of the networks, one panel a guidance, one color a solver.

    Dashed lines with stars are corrected rows; bars are standard errors, those of one cost beside each other;
    the gray band is the Pareto front, of rows that none of the same or lower cost beats.
    """
    panels = list(dict.fromkeys(row.guidance for row in view.rows))
    title = next(iter(view.rows[0].metrics.values()))[0]
    solvers = list(dict.fromkeys(_plain_name(row) for row in view.rows))
    colors = {solver: plt.get_cmap("tab10")(index % 10) for index, solver in enumerate(solvers)}
    figure, axes = plt.subplots(
        1, len(panels), figsize=(7 * len(panels) + 1.5, 5), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        rows = [row for row in view.rows if row.guidance == panel]
        front = pareto_front(rows, view.lower)
        axis.plot(
            [row.cost for row in front], [_headline(row)[0] for row in front],
            color="0.85", linewidth=9, solid_capstyle="round", zorder=0, label="Pareto front",
        )  # fmt: skip
        series = list(itertools.product(solvers, (False, True)))
        for number, (solver, corrected) in enumerate(series):
            of_solver = [row for row in rows if _plain_name(row) == solver]
            points = sorted(
                (row for row in of_solver if (row.method != row.solver) == corrected),
                key=lambda row: row.cost,
            )
            if not points:
                continue
            several = len({row.cost for row in points}) < len(points)  # of one cost: no line through them
            line = "none" if several else ("--" if corrected else "-")
            beside = 1 + DODGE * (number - len(series) / 2)
            axis.errorbar(
                [row.cost * beside for row in points], [_headline(row)[0] for row in points],
                yerr=[_headline(row)[1] for row in points], capsize=3, color=colors[solver], linestyle=line,
                marker="*" if corrected else "o", markersize=11 if corrected else 4,
                label=points[0].method.partition(" (")[0] if corrected else solver,
            )  # fmt: skip
        ticks = sorted({round(row.cost) for row in rows})
        _log_axes(axis, panel, "network evaluations an image (NFE)", ticks)
    axes[0][0].set_ylabel(f"{title} ({'lower' if view.lower else 'higher'} is better)")
    axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    figure.suptitle(view.title, fontsize=11)
    return figure


def _log_axes(axis: Axes, title: str, xlabel: str, ticks: Sequence[int]) -> None:
    """Logarithmic axes with plain numbers: `ticks` across, 1, 2, 5 and their decades up."""
    axis.set(title=title, xlabel=xlabel, xscale="log", yscale="log")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.minorticks_off()
    axis.grid(alpha=0.3)


def pareto_front(rows: Sequence[TableRow], lower: bool = True) -> list[TableRow]:
    """The rows that no other of the same or lower cost beats in the headline metric, by cost."""
    front: list[TableRow] = []
    for row in sorted(rows, key=lambda row: (row.cost, _headline(row)[0] if lower else -_headline(row)[0])):
        if not front or (_headline(row)[0] < _headline(front[-1])[0]) == lower:
            front.append(row)
    return front


def _headline(row: TableRow) -> Estimate:
    return next(iter(row.metrics.values()))[1]


def _plain_name(row: TableRow) -> str:
    """The solver without options: rows that differ in them are points of one line."""
    return row.solver.partition(",")[0]


def sample_sheet(rows: Mapping[str, np.ndarray], title: str, columns: Sequence[str]) -> Figure:
    """One row of images a method, same seeds side by side. rows: label -> uint8 [N, H, W, C]."""
    count = max(len(images) for images in rows.values())
    size = (0.62 * count + 1.6, 0.62 * len(rows) + 0.7)
    figure, axes = plt.subplots(len(rows), count, figsize=size, squeeze=False)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for column, axis in enumerate(line):
            axis.set(xticks=[], yticks=[])
            if column < len(images):
                gray = images.shape[-1] == 1
                image = images[column, ..., 0] if gray else images[column]
                axis.imshow(image, cmap="gray" if gray else None, vmin=0, vmax=255)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    for axis, column_title in zip(axes[0], columns, strict=False):
        axis.set_title(column_title, fontsize=7)
    figure.suptitle(title, fontsize=10)
    return figure


# Pictures of a table by name, as table files name them.
FIGURES: dict[str, Callable[[TableView], Figure]] = {"steps": steps_figure, "nfe": nfe_figure}


def to_bytes(figure: Figure, form: str) -> bytes:
    """The figure as a PNG or SVG file; the same bytes each time it is drawn with one matplotlib."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "erk-bench"}):
        figure.savefig(buffer, format=form, dpi=150, metadata=metadata)
    plt.close(figure)
    return buffer.getvalue()
