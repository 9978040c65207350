"""The paper's Figures 1 to 3 and Proposition 1 from measurements on the 2D mixture; each with its CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from torch import Tensor

from erk_bench.base.files import write_atomic
from erk_bench.reporting.series import BLACK, BLUE, ORANGE, Look, looks
from erk_bench.reporting.table_figures import to_bytes
from erk_bench.studies.analysis.measure import SIGMA_MAX, MeasuredSteps, cosine, levels, measure
from erk_bench.studies.analysis.mixture import tree
from erk_bench.studies.analysis.toy_networks import toy_network

COUNT, STEPS, SEED = 160, 32, 0
CHANCE = 2 / math.pi  # mean |cos| of a random direction in the plane
BINS = np.logspace(-2, 3, 21)  # of |lambda|
STIFF = 10.0  # |lambda| beyond which Figures 1 and 3(b) show a step
GREY = "#4c566a"  # of lines that are not measured

# Columns of a picture's CSV by header, each as long as the others.
Columns = dict[str, Tensor]


class AnalysisFigure(NamedTuple):
    """A picture and the numbers in it."""

    figure: Figure
    columns: Columns


def figure1(found: MeasuredSteps) -> AnalysisFigure:
    """How far the local error and the free difference reach along the dominant eigenvector, and across it."""
    stiff = found.size > STIFF
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), sharex=True, sharey=True, layout="constrained")
    columns: Columns = {"abs_lambda": found.size[stiff]}
    for axis, name, vectors, color in (
        (axes[0], "local truncation error of Heun", found.lte, BLUE),
        (axes[1], "Heun minus Euler (free)", found.dx, ORANGE),
    ):
        along = (vectors * found.eigenvector).sum(dim=1)[stiff].abs()
        across = (vectors[stiff].square().sum(dim=1) - along**2).clamp(min=0).sqrt()
        key = "lte" if color == BLUE else "dx"
        columns |= {f"{key}_along": along, f"{key}_across": across}
        axis.scatter(along, across, s=5, alpha=0.4, color=color, linewidths=0)
        axis.plot((1e-8, 1e1), (1e-8, 1e1), color=GREY, linestyle="--", linewidth=1, label="45 degrees")
        share = (along > across).double().mean().item()
        axis.set(
            title=f"{name}\n{share:.0%} of {len(along):,} steps lie below the line",
            xscale="log", yscale="log", xlim=(1e-8, 1e1), ylim=(1e-8, 1e1),
            xlabel="|component along the dominant eigenvector|",
        )  # fmt: skip
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("|component across it|")
    axes[0].legend(loc="upper left")
    figure.suptitle(f"Figure 1: Heun steps with |λ| > {STIFF:g} on the 2D mixture, {STEPS} noise levels")
    return AnalysisFigure(figure, columns)


def guiding_directions(found: MeasuredSteps) -> dict[str, Tensor]:
    """Where model guidance would push at the start of each step [M, 2]: the main denoised point minus the
    unconditional (CFG) or the weaker network's (autoguidance); of small networks, and CFG's exact one."""
    points = (found.start, found.sigma)
    main = toy_network("conditional")(*points)
    exact = [
        tree("A").denoised(*part) - tree("AB").denoised(*part)  # in parts: thousands of components each
        for part in zip(*(each.split(512) for each in points), strict=True)
    ]
    return {
        "cfg": main - toy_network("unconditional")(*points),
        "cfg_exact": torch.cat(exact),
        "autoguidance": main - toy_network("weaker")(*points),
    }


def figure2(found: MeasuredSteps) -> AnalysisFigure:
    """Alignment with the dominant eigenvector against stiffness: of the error, and of what is free."""
    known = found.used.isfinite().all(dim=1)  # the first step has no previous pair
    start_size = found.at_start.abs()[known]
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.2), sharey=True, layout="constrained")
    columns: Columns = {"abs_lambda": torch.from_numpy(np.sqrt(BINS[:-1] * BINS[1:]))}
    for axis, key, color, vectors in ((axes[0], "lte", BLUE, found.lte), (axes[1], "dx", ORANGE, found.dx)):
        alignment = cosine(vectors, found.eigenvector)
        axis.scatter(found.size, alignment, s=3, alpha=0.15, color=color, linewidths=0)
        columns |= _binned(axis, key, found.size, alignment, color, "mean", Look(BLACK, "", "-"))
    directions = {"erk_guid": found.used} | guiding_directions(found)
    names = ("ERK-Guid (previous pair)", "CFG", "CFG, exact denoisers", "autoguidance")
    for (key, vectors), (label, look) in zip(directions.items(), looks(names).items(), strict=True):
        alignment = cosine(vectors, found.start_vector)[known]
        columns |= _binned(axes[2], key, start_size, alignment, look.color, label, look)
    for axis, title in zip(
        axes,
        ("(a) local truncation error", "(b) Heun minus Euler", "(c) directions of guidance"),
        strict=True,
    ):
        axis.axhline(CHANCE, color=GREY, linestyle=":", label="random direction, mean 2/π")
        axis.set(title=title, xscale="log", xlabel="|λ| of the dominant eigenvector", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right" if axis is not axes[2] else "lower left")
    axes[0].set_ylabel("|cos| with the dominant eigenvector")
    figure.suptitle(
        f"Figure 2: {COUNT} trajectories of Heun's method, {STEPS} noise levels; bands: middle 80 %"
    )
    return AnalysisFigure(figure, columns)


def figure3(found: MeasuredSteps) -> AnalysisFigure:
    """The free estimates: R against the exact stiffness; the slope difference is a power iteration on dx."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    left.scatter(found.size, found.estimate, s=4, alpha=0.25, color=BLUE, linewidths=0)
    left.plot((1e-3, 1e3), (1e-3, 1e3), color=GREY, linestyle="--", label="R = |λ|")
    pearson = torch.corrcoef(torch.stack([found.estimate.log(), found.size.log()]))[0, 1].item()
    left.set(
        title=f"(a) R = |Δf| / |Δx|; log-log correlation {pearson:.3f}", xscale="log", yscale="log",
        xlabel="exact |λ|", ylabel="estimate R",
    )  # fmt: skip
    left.legend()
    left.grid(alpha=0.3)
    stiff = found.size > STIFF
    dx, df = (cosine(each, found.eigenvector) for each in (found.dx, found.df))
    points = right.scatter(
        dx[stiff], df[stiff], s=5, alpha=0.5, c=found.size[stiff].log10(), cmap="viridis", linewidths=0
    )
    right.axline((0, 0), slope=1, color=GREY, linestyle="--", label="equal")
    above = (df >= dx)[stiff].double().mean().item()
    right.set(
        title=f"(b) steps with |λ| > {STIFF:g}: {above:.1%} on or above the line",
        xlabel="|cos| of Δx with the dominant eigenvector", ylabel="|cos| of Δf",
        xlim=(0, 1.01), ylim=(0, 1.01),
    )  # fmt: skip
    right.legend(loc="lower right")
    right.grid(alpha=0.3)
    figure.colorbar(points, ax=right, label="log10 |λ|")
    figure.suptitle("Figure 3: what the solver sees for free")
    return AnalysisFigure(figure, {"abs_lambda": found.size, "R": found.estimate, "cos_dx": dx, "cos_df": df})


def proposition1(found: MeasuredSteps) -> AnalysisFigure:
    """R / |lambda| against c = |cos(dx, v)|, and the law for a constant symmetric Jacobian."""
    figure, axis = plt.subplots(figsize=(6, 4.6), layout="constrained")
    cos = cosine(found.dx, found.eigenvector)
    ratio = found.estimate / found.size
    second = found.second.abs() / found.size
    points = axis.scatter(cos, ratio, s=4, alpha=0.4, c=second, cmap="viridis", linewidths=0, vmin=0, vmax=1)
    c = np.linspace(0, 1, 200)
    for r, style in ((0.0, "-"), (0.5, "--"), (0.9, ":")):
        axis.plot(c, np.sqrt(c**2 + r**2 * (1 - c**2)), color=GREY, linestyle=style, label=f"law, r = {r:g}")
    axis.set(
        title="Proposition 1: R / |λ| = √(c² + r² (1 − c²)) ≤ 1", xlabel="c = |cos(Δx, v)|",
        ylabel="R / |λ|", ylim=(0, 1.15),
    )  # fmt: skip
    axis.legend(loc="lower right")
    axis.grid(alpha=0.3)
    figure.colorbar(points, ax=axis, label="r = |λ₂ / λ₁|")
    return AnalysisFigure(
        figure, {"abs_lambda": found.size, "cos_dx": cos, "R_over_lambda": ratio, "r": second}
    )


def _binned(axis: Axes, key: str, size: Tensor, values: Tensor, band: str, label: str, look: Look) -> Columns:
    """Mean and the middle 80 % (a band in colour `band`) of the values in bins of |lambda|; drawn where a bin
    has 10 or more."""
    which = np.where(values.isfinite(), np.digitize(size, BINS) - 1, -1)
    rows = []
    for number in range(len(BINS) - 1):
        inside = values.numpy()[which == number]
        enough = len(inside) >= 10
        stats = (inside.mean(), *np.quantile(inside, (0.1, 0.9))) if enough else (math.nan,) * 3
        rows.append((len(inside), *stats))
    count, mean, low, high = np.array(rows).T
    centers = np.sqrt(BINS[:-1] * BINS[1:])
    axis.plot(
        centers, mean, color=look.color, marker=look.marker, linestyle=look.line, markersize=4, linewidth=1.8,
        label=label,
    )  # fmt: skip
    if key in ("lte", "dx", "erk_guid"):  # the bands of others would hide one another
        axis.fill_between(centers, low, high, color=band, alpha=0.25)
    parts = {"count": count, "mean": mean, "p10": low, "p90": high}
    return {f"{key}_{name}": torch.from_numpy(column) for name, column in parts.items()}


FIGURES: dict[str, Callable[[MeasuredSteps], AnalysisFigure]] = {
    "figure1": figure1,
    "figure2": figure2,
    "figure3": figure3,
    "proposition1": proposition1,
}


def draw_all(to: Path, names: Sequence[str] = tuple(FIGURES)) -> MeasuredSteps:
    """Measure, and write every picture as PNG and SVG with its CSV into a folder."""
    start = tree("A").sample(COUNT, SIGMA_MAX, torch.Generator().manual_seed(SEED))
    found = measure(tree("A"), start, levels(STEPS))
    for name in names:
        drawn = FIGURES[name](found)
        for form in ("svg", "png"):
            write_atomic(to / f"{name}.{form}", _bytes(drawn.figure, form))
        plt.close(drawn.figure)
        write_atomic(to / f"{name}.csv", to_csv(drawn.columns).encode())
    return found


def _bytes(figure: Figure, form: str) -> bytes:
    for axis in figure.axes:
        for points in axis.collections:
            points.set_rasterized(isinstance(points, PathCollection))  # thousands of shapes are slow to show
    return to_bytes(figure, form)


def to_csv(columns: Columns) -> str:
    """A line for each row, four digits a value."""
    buffer = io.StringIO()
    writer: Any = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        writer.writerow([f"{value:.4g}" for value in row])
    return buffer.getvalue()
