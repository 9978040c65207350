"""Exponential multistep solvers in half log-SNR lambda = -log sigma: DPM-Solver++ and UniPC.

One evaluation a step. `predict` chooses what is extrapolated: the denoised image or the noise (the slope).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from erk_bench.sampling.multistep import past_nodes
from erk_bench.sampling.steps import Node, Slope, Step

QUANTILE = 0.995


def thresholded(denoised: Tensor) -> Tensor:
    """Dynamic thresholding (Imagen, arXiv 2205.11487, section 2.3): clip to the 0.995 quantile s of |x| per
    sample, at least 1, and divide by s."""
    flat = denoised.flatten(1)
    limit = torch.quantile(flat.abs(), QUANTILE, dim=1).clamp(min=1.0)[:, None]
    return (torch.maximum(torch.minimum(flat, limit), -limit) / limit).reshape(denoised.shape)


def _output(node: Node, predict: str, thresholding: bool) -> Tensor:
    """What the solver extrapolates."""
    if predict == "noise":
        return node.slope
    return thresholded(node.denoised) if thresholding else node.denoised


def _order(
    max_order: int, available: int, lower_order_final: bool, sigma_next: float, levels: Sequence[float]
) -> int:
    """As many evaluations as there are, and with lower_order_final not more than steps are left."""
    order = min(max_order, available)
    if lower_order_final and available >= max_order:
        order = min(order, len(levels) - levels.index(sigma_next))
    return order


def dpmpp_step(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    levels: Sequence[float],
    max_order: int = 3,
    predict: str = "denoised",
    lower_order_final: bool = True,
    thresholding: bool = True,
) -> Step:
    """DPM-Solver++ multistep, 2M and 3M (arXiv 2211.01095, algorithm 2 and appendix).

    predict="noise" is the multistep DPM-Solver of that paper's appendix. thresholding: of the denoised image,
    on in the published program; it assumes images in [-1, 1] and changes the equation for others.
    """
    node = Node(x, slope(x, sigma), sigma)
    order = _order(max_order, len(history) + 1, lower_order_final, sigma_next, levels)
    nodes = past_nodes(node, history, order)
    outputs = [_output(each, predict, thresholding) for each in nodes]
    h = math.log(sigma / sigma_next)
    sign = 1.0 if predict == "noise" else -1.0  # of the exponent
    phi1 = math.expm1(sign * h)
    phi2 = phi1 / h - sign
    phi3 = phi2 / h - 0.5
    ratios = [math.log(older.sigma / newer.sigma) / h for newer, older in itertools.pairwise(nodes)]
    scale = sigma_next if predict == "noise" else 1.0
    x_next = x if predict == "noise" else (sigma_next / sigma) * x
    x_next = x_next - scale * phi1 * outputs[0]
    if order == 2:
        x_next = x_next - scale * 0.5 * phi1 / ratios[0] * (outputs[0] - outputs[1])
    if order == 3:
        near = (outputs[0] - outputs[1]) / ratios[0]
        far = (outputs[1] - outputs[2]) / ratios[1]
        first = near + ratios[0] / (ratios[0] + ratios[1]) * (near - far)
        second = (near - far) / (ratios[0] + ratios[1])
        x_next = x_next - scale * (sign * phi2 * first + phi3 * second)
    return Step(x_next, node, None, sigma - sigma_next, None)


def unipc_step(
    slope: Slope,
    x: Tensor,
    sigma: float,
    sigma_next: float,
    history: Sequence[Step],
    *,
    levels: Sequence[float],
    max_order: int = 3,
    variant: str = "bh2",
    predict: str = "denoised",
    lower_order_final: bool = True,
    thresholding: bool = True,
) -> Step:
    """UniPC (arXiv 2302.04867): predict, evaluate at the prediction, correct; the next step reuses the
    evaluation. The last step only predicts.

    variant: the function B(h), h ("bh1") or e^h - 1 ("bh2").
    """
    reused = history[-1].ahead if history else None
    node = Node(x, slope(x, sigma), sigma) if reused is None else reused
    order = _order(max_order, len(history) + 1, lower_order_final, sigma_next, levels)
    latest, *older = past_nodes(node, history, order)
    h = math.log(sigma / sigma_next)
    exponent = h if predict == "noise" else -h
    phi1 = math.expm1(exponent)
    b_h = exponent if variant == "bh1" else phi1
    scale = sigma_next if predict == "noise" else 1.0
    base = _output(latest, predict, thresholding)
    start = (x if predict == "noise" else (sigma_next / sigma) * x) - scale * phi1 * base
    ratios = [-math.log(each.sigma / sigma) / h for each in older]
    slopes = [
        (_output(each, predict, thresholding) - base) / ratio
        for each, ratio in zip(older, ratios, strict=True)
    ]
    predicted = start
    if slopes:
        weights = [0.5] if order == 2 else _unipc_weights(ratios, exponent, b_h)
        for weight, each in zip(weights, slopes, strict=True):
            predicted = predicted - scale * b_h * weight * each
    if sigma_next == levels[-1]:
        return Step(predicted, node, None, sigma - sigma_next, None)
    ahead = Node(predicted, slope(predicted, sigma_next), sigma_next)
    slopes.append(_output(ahead, predict, thresholding) - base)
    weights = [0.5] if order == 1 else _unipc_weights([*ratios, 1.0], exponent, b_h)
    x_next = start
    for weight, each in zip(weights, slopes, strict=True):
        x_next = x_next - scale * b_h * weight * each
    return Step(x_next, node, None, sigma - sigma_next, ahead)


def _unipc_weights(ratios: Sequence[float], exponent: float, b_h: float) -> list[float]:
    """Weights that match the Taylor expansion (arXiv 2302.04867, eq. 5): a Vandermonde system."""
    rows, right = [], []
    phi, factorial = math.expm1(exponent) / exponent - 1, 1
    for power in range(len(ratios)):
        rows.append([ratio**power for ratio in ratios])
        right.append(phi * factorial / b_h)
        factorial *= power + 2
        phi = phi / exponent - 1 / factorial
    solution = torch.linalg.solve(
        torch.tensor(rows, dtype=torch.float64), torch.tensor(right, dtype=torch.float64)
    )
    return [float(value) for value in solution]
