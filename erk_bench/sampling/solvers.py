"""Solvers of the probability-flow ODE dx/dsigma = (x - D(x; sigma)) / sigma.

Each solver is one function making one step from sigma down to sigma_next > 0; the loop makes the last step to
zero, if there is one, by Euler's method, unless the row says that the solver's formula reaches zero. To add
a solver, write its function and its row of SOLVERS here (or only the function, in a file of your own:
solver.path), and its file in configs/solver/. The row says what the tests expect of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from erk_bench.sampling.adaptive import heun_adaptive_step
from erk_bench.sampling.angle import angle_step
from erk_bench.sampling.deis import deis_step
from erk_bench.sampling.dpm_solver_v3 import ModelStatistics, dpm_solver_v3_step
from erk_bench.sampling.exponential import dpmpp_step, unipc_step
from erk_bench.sampling.extrapolation import LONGEST, rx_step
from erk_bench.sampling.multistep import ipndm_step, ipndm_v_step
from erk_bench.sampling.options import Instance, Numbers
from erk_bench.sampling.steps import Node, Slope, Solver, Step
from erk_bench.sampling.stork import stork_step
from erk_bench.sampling.switching import sdm_step


def euler_step(slope: Slope, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Step]) -> Step:
    """Euler's method; DDIM in these coordinates (arXiv 2206.00364, section 3)."""
    h = sigma - sigma_next
    node = Node(x, slope(x, sigma), sigma)
    return Step(x - h * node.slope, node, None, h, None)


def heun_step(slope: Slope, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Step]) -> Step:
    """Heun's second-order method (arXiv 2206.00364, algorithm 1).

    The Euler prediction of the previous step and the present state lie at the same sigma: they are the
    embedded pair of ERK-Guid (arXiv 2603.03692).
    """
    h = sigma - sigma_next
    node = Node(x, slope(x, sigma), sigma)
    predicted = x - h * node.slope
    ahead = Node(predicted, slope(predicted, sigma_next), sigma_next)
    x_next = x - h * (0.5 * node.slope + 0.5 * ahead.slope)
    return Step(x_next, node, history[-1].ahead if history else None, h, ahead)


def midpoint_step(slope: Slope, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Step]) -> Step:
    """The midpoint method: the slope in the middle of the step, reached by half a step of Euler's."""
    h = sigma - sigma_next
    node = Node(x, slope(x, sigma), sigma)
    return Step(x - h * slope(x - h / 2 * node.slope, sigma - h / 2), node, None, h, None)


def rk4_step(slope: Slope, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Step]) -> Step:
    """Kutta's 3/8 rule of order 4, which torchdiffeq calls rk4."""
    h = sigma - sigma_next
    node = Node(x, slope(x, sigma), sigma)
    first = node.slope
    second = slope(x - h / 3 * first, sigma - h / 3)
    third = slope(x - h * (second - first / 3), sigma - 2 * h / 3)
    fourth = slope(x - h * (first - second + third), sigma_next)
    return Step(x - h * (first + 3 * (second + third) + fourth) / 8, node, None, h, None)


def dpm2_step(
    slope: Slope, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Step], *, r: float = 0.5
) -> Step:
    """DPM-Solver-2 (arXiv 2206.00927, algorithm 1): a midpoint at the share r of the step in log sigma.

    The start and the midpoint of the same step are the pair of ERK-Guid, although their sigmas differ.
    """
    h = sigma - sigma_next
    node = Node(x, slope(x, sigma), sigma)
    sigma_mid = sigma_next**r * sigma ** (1 - r)
    x_mid = x + (sigma_mid - sigma) * node.slope
    middle = Node(x_mid, slope(x_mid, sigma_mid), sigma_mid)
    x_next = x - h * (middle.slope / (2 * r) + (1 - 1 / (2 * r)) * node.slope)
    return Step(x_next, node, middle, h, None)


_BOOL = (True, False)
# Thresholding changes what is solved.
_UNBOUNDED = {"thresholding": False}

SOLVERS: dict[str, Solver] = {
    "euler": Solver(euler_step, title="Euler", order=1, to_zero=True, knows_zero=True),
    "heun": Solver(
        heun_step, title="Heun", order=2, evaluations=2, history=1, paired=True, to_zero=True,
        contains_euler=True, knows_zero=True,
    ),
    "midpoint": Solver(
        midpoint_step, title="midpoint", order=2, evaluations=2, to_zero=True, knows_zero=True
    ),
    "rk4": Solver(
        rk4_step, title="RK4 (3/8)", order=4, global_order=4, evaluations=4, to_zero=True, knows_zero=True
    ),
    "dpm2": Solver(
        dpm2_step, title="DPM-Solver-2", order=2, evaluations=2, paired=True,
        options={"r": Numbers(0, 1, open=True)},
    ),
    "deis": Solver(
        deis_step, title="DEIS", order=4, history=3, paired=True, schedule="time_uniform", rho=2.0,
        options={"max_order": (2, 3, 4), "mode": ("tab", "tab_exact", "rhoab"), "erk_adds": _BOOL},
        plain={"mode": "tab_exact"},  # the published sums stop at 1e-4 of a weight
    ),
    "ipndm": Solver(
        ipndm_step, title="iPNDM", order=1, global_order=2, history=3, options={"max_order": (2, 3, 4)}
    ),
    "ipndm_v": Solver(
        ipndm_v_step, title="iPNDM_v", order=0, global_order=1, history=3,
        options={"max_order": (2, 3, 4), "exact": _BOOL},
    ),
    "dpmpp": Solver(
        dpmpp_step, title="DPM-Solver++", order=2, history=2, schedule="logsnr", plain=_UNBOUNDED,
        options={
            "max_order": (1, 2, 3), "predict": ("denoised", "noise"), "lower_order_final": _BOOL,
            "thresholding": _BOOL,
        },
    ),
    "unipc": Solver(
        unipc_step, title="UniPC", order=4, history=2, schedule="logsnr", plain=_UNBOUNDED,
        options={
            "max_order": (1, 2, 3), "variant": ("bh1", "bh2"), "predict": ("denoised", "noise"),
            "lower_order_final": _BOOL, "thresholding": _BOOL,
        },
    ),
    "dpm_solver_v3": Solver(
        dpm_solver_v3_step, title="DPM-Solver-v3", order=3, history=3, schedule="logsnr",
        options={
            "statistics": Instance(ModelStatistics, "a ModelStatistics of sampling.dpm_solver_v3, or None"),
            "max_order": (1, 2, 3), "corrector": _BOOL, "pseudo": _BOOL, "corrector_pseudo": _BOOL,
            "lower_order_final": _BOOL,
        },
    ),
    "heun_adaptive": Solver(
        heun_adaptive_step, title="adaptive Heun", order=2, options={"tolerance": Numbers(0, 10, open=True)},
        to_zero=True, adaptive=True,
    ),
    "stork": Solver(
        stork_step, title="STORK", order=2, history=4, schedule="time_uniform", rho=2.0, through_zero=True,
        options={
            "stages": range(3, 1001), "form": ("vp", "flow"), "degree": (1, 2, 3), "published": _BOOL,
        },
    ),
    "rx": Solver(
        rx_step, title="RX", order=1, global_order=2, history=2 * LONGEST - 2, to_zero=True,
        through_zero=True,
        options={
            "base": ("euler", "heun"), "block": range(1, LONGEST + 1), "skip_last": _BOOL,
            "published": _BOOL,
        },
    ),
    "sdm": Solver(
        sdm_step, title="SDM", order=2, history=1, to_zero=True, adaptive=True, plain={"tau": 0.0},
        options={
            "blend": ("step", "linear", "cosine"), "tau": Numbers(0, infinite=True), "batch_rule": _BOOL,
        },
    ),
    "angle": Solver(
        angle_step, title="Angle", order=2, history=4, paired=True, schedule="angle", rho=1.0,
        through_zero=True,
        options={
            "max_order": (1, 2, 3, 4), "sigma_data": Numbers(0, math.inf, open=True),
            "basis": ("polynomial", "trigonometric"), "corrector": _BOOL,
        },
    ),
}  # fmt: skip
