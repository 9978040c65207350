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

from erk_bench.analysis.trajectories import Found, chance

GATES = (0.1, 0.3, 1.0, 3.0)  # thresholds w_con that the picture shows beside the run's own
COLORS = ("#5e81ac", "#d08770", "#8fbc6a", "#b48ead", "#4c566a")


def correlation(found: Found, *, scaled: bool = False) -> float:
    """Pearson's, of log R and log |lambda|; scaled: of R sigma and |lambda| sigma, so that what both owe to
    the noise level alone does not count."""
    both = torch.stack([found.estimate.log(), found.size.log()])
    return torch.corrcoef(both + found.sigma.log() if scaled else both)[0, 1].item()


def by_step(found: Found, values: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    """A statistic of the values [M] over the samples of each step, [steps]."""
    return torch.stack([statistic(values[found.step == step]) for step in found.step.unique()])


def quantile(q: float) -> Callable[[Tensor], Tensor]:
    """For `by_step`."""
    return lambda values: values.quantile(q)


def trajectory_figure(title: str, found: Found, dimensions: int, w_con: float | None) -> Figure:
    """Stiffness and its estimates, their correlation, alignment and gate openings over noise levels."""
    sigma = by_step(found, found.sigma, quantile(0.5))
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    (over, against), (aligned, gates) = axes
    over.plot(sigma, 1 / sigma, color=COLORS[4], linestyle=":", label="1/σ (data at a point)")
    _band(over, found, sigma, found.size, COLORS[0], "|λ|, power iteration")
    _band(over, found, sigma, found.along_dx, COLORS[2], "|J Δx| / |Δx|")
    _band(over, found, sigma, found.estimate, COLORS[1], "R = |Δf| / |Δx| (free)")
    over.set(title="stiffness: median and middle 80 %", yscale="log", ylabel="1 / noise level")
    points = against.scatter(
        found.size, found.estimate, s=8, alpha=0.6, c=found.sigma.log10(), cmap="viridis", linewidths=0
    )
    low, high = found.size.min().item(), found.size.max().item()
    against.plot((low, high), (low, high), color=COLORS[4], linestyle="--", label="R = |λ|")
    against.set(
        title=f"correlation {correlation(found):.3f}; of σR and σ|λ| {correlation(found, scaled=True):.3f}",
        xscale="log", yscale="log", xlabel="|λ|", ylabel="R",
    )  # fmt: skip
    figure.colorbar(points, ax=against, label="log10 σ")
    _band(aligned, found, sigma, found.cos_dx, COLORS[0], "Δx")
    _band(aligned, found, sigma, found.cos_df, COLORS[1], "Δf, ERK-Guid's direction")
    aligned.axhline(chance(dimensions), color=COLORS[4], linestyle=":", label="random direction")
    aligned.set(title="alignment with the dominant eigenvector", ylabel="|cos|", ylim=(0, 1.02))
    for color, threshold in zip(COLORS, GATES, strict=False):
        share = by_step(found, (found.estimate > threshold).double(), torch.mean)
        gates.plot(sigma, share, color=color, marker=".", label=f"w_con = {threshold:g}")
    if w_con is not None:
        share = by_step(found, (found.estimate > w_con).double(), torch.mean)
        gates.plot(sigma, share, color="black", linewidth=2.5, label=f"w_con = {w_con:g}, of this run")
    gates.set(title="open gates (R > w_con)", ylabel="share of samples", ylim=(-0.02, 1.02))
    for axis in (over, aligned, gates):
        axis.set(xscale="log", xlabel="noise level σ")
        axis.invert_xaxis()
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    return figure


def _band(axis: Axes, found: Found, sigma: Tensor, values: Tensor, color: str, label: str) -> None:
    axis.plot(sigma, by_step(found, values, quantile(0.5)), color=color, marker=".", label=label)
    low, high = (by_step(found, values, quantile(q)) for q in (0.1, 0.9))
    axis.fill_between(sigma, low, high, color=color, alpha=0.2)
