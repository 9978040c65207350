"""The picture of `erk-bench analyze`, and the numbers in it."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from erk_bench.reporting.series import Look, looks
from erk_bench.reporting.styles import SCREEN, set_title
from erk_bench.studies.analysis.trajectories import ObservedSteps, chance

GATES = (0.1, 0.3, 1.0, 3.0)  # thresholds w_con that the picture shows beside the run's own
GREY = "#4c566a"  # of lines that are not measured


def correlation(found: ObservedSteps, *, scaled: bool = False) -> float:
    """Pearson's, of log R and log |lambda|; scaled: of R sigma and |lambda| sigma, so that what both owe to
    the noise level alone does not count."""
    both = torch.stack([found.estimate.log(), found.size.log()])
    return torch.corrcoef(both + found.sigma.log() if scaled else both)[0, 1].item()


def by_step(found: ObservedSteps, values: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    """A statistic of the values [M] over the samples of each step, [steps]."""
    return torch.stack([statistic(values[found.step == step]) for step in found.step.unique()])


def quantile(q: float) -> Callable[[Tensor], Tensor]:
    """For `by_step`."""
    return lambda values: values.quantile(q)


def trajectory_figure(title: str, found: ObservedSteps, dimensions: int, w_con: float | None) -> Figure:
    """Stiffness and its estimates, their correlation, alignment and gate openings over noise levels."""
    sigma = by_step(found, found.sigma, quantile(0.5))
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    (over, against), (aligned, gates) = axes
    names = ("|λ|, power iteration", "|J Δx| / |Δx|", "R = |Δf| / |Δx| (free)")
    over.plot(sigma, 1 / sigma, color=GREY, linestyle=":", label="1/σ (data at a point)")
    measured = (found.size, found.along_dx, found.estimate)
    for (name, look), values in zip(looks(names).items(), measured, strict=True):
        _band(over, found, sigma, values, look, name)
    over.set(title="stiffness: median and middle 80 %", yscale="log", ylabel="1 / noise level")
    points = against.scatter(
        found.size, found.estimate, s=8, alpha=0.6, c=found.sigma.log10(), cmap="viridis", linewidths=0
    )
    low, high = found.size.min().item(), found.size.max().item()
    against.plot((low, high), (low, high), color=GREY, linestyle="--", label="R = |λ|")
    against.set(
        title=f"correlation {correlation(found):.3f}; of σR and σ|λ| {correlation(found, scaled=True):.3f}",
        xscale="log", yscale="log", xlabel="|λ|", ylabel="R",
    )  # fmt: skip
    figure.colorbar(points, ax=against, label="log10 σ")
    both = looks(("Δx", "Δf, ERK-Guid's direction"))
    for (name, look), values in zip(both.items(), (found.cos_dx, found.cos_df), strict=True):
        _band(aligned, found, sigma, values, look, name)
    aligned.axhline(chance(dimensions), color=GREY, linestyle=":", label="random direction")
    aligned.set(title="alignment with the dominant eigenvector", ylabel="|cos|", ylim=(0, 1.02))
    thresholds = {f"w_con = {threshold:g}": threshold for threshold in GATES}
    if w_con is not None:
        thresholds[f"w_con = {w_con:g}, of this run"] = w_con
    for name, look in looks(thresholds).items():
        share = by_step(found, (found.estimate > thresholds[name]).double(), torch.mean)
        gates.plot(
            sigma, share, color=look.color, marker=look.marker, markersize=4, label=name,
            linewidth=2.5 if name.endswith("this run") else 1.5,
        )  # fmt: skip
    gates.set(title="open gates (R > w_con)", ylabel="share of samples", ylim=(-0.02, 1.02))
    for axis in (over, aligned, gates):
        axis.set(xscale="log", xlabel="noise level σ")
        axis.invert_xaxis()
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.legend()
    set_title(figure, title, SCREEN)
    return figure


def _band(axis: Axes, found: ObservedSteps, sigma: Tensor, values: Tensor, look: Look, label: str) -> None:
    middle = by_step(found, values, quantile(0.5))
    axis.plot(sigma, middle, color=look.color, marker=look.marker, markersize=4, label=label)
    low, high = (by_step(found, values, quantile(q)) for q in (0.1, 0.9))
    axis.fill_between(sigma, low, high, color=look.color, alpha=0.2)
