"""Noise schedules: decreasing sigmas from sigma_max to sigma_min."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.sampling.options import Allowed, Numbers

# levels(num_steps, sigma_min, sigma_max, rho, dtype, **options): num_steps falling sigmas, float [num_steps].
Levels = Callable[..., Tensor | Sequence[float]]


class Schedule(NamedTuple):
    """A row of SCHEDULES.

    rho: the exponent that it is commonly used with. options: what its own may be. own_ends: whether its first
    and last level are its own, whatever sigma_min and sigma_max are.
    """

    levels: Levels
    rho: float = 7.0
    options: Mapping[str, Allowed] = {}
    own_ends: bool = False

    @property
    def function(self) -> Levels:
        """The function that makes the noise levels."""
        return self.levels


SIGMA_DATA = 0.5  # standard deviation of the data of EDM's, EDM2's and the digits networks

# The VP process whose noise levels reach EDM's range at these times (arXiv 2206.00364, table 1).
VP_SIGMA_MIN, VP_SIGMA_MAX, VP_TIME_MIN = 0.002, 80.0, 1e-3


def polynomial(num_steps: int, sigma_min: float, sigma_max: float, rho: float, dtype: torch.dtype) -> Tensor:
    """num_steps sigmas, uniform in sigma^(1/rho) (EDM, arXiv 2206.00364 eq. 5).

    Computed in `dtype`, as the published programs do: in float32 the first sigma is 79.99998, not 80.
    """
    ramp = torch.arange(num_steps, dtype=dtype) / (num_steps - 1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (high + ramp * (low - high)) ** rho


def logsnr(num_steps: int, sigma_min: float, sigma_max: float, rho: float, dtype: torch.dtype) -> Tensor:
    """num_steps sigmas, uniform in log sigma (DPM-Solver, arXiv 2206.00927); rho is not used."""
    ramp = torch.linspace(-math.log(sigma_max), -math.log(sigma_min), num_steps, dtype=dtype)
    return (-ramp).exp()


def time_uniform(
    num_steps: int, sigma_min: float, sigma_max: float, rho: float, dtype: torch.dtype
) -> Tensor:
    """num_steps sigmas, uniform in t^(1/rho) of the VP process that spans the range (DEIS, arXiv 2204.13902).

    Computed in `dtype`, as the published program does: in float32 the last sigma is 0.7% above sigma_min.
    """
    beta_d, beta_min = vp_betas(sigma_min, sigma_max)
    ramp = torch.arange(num_steps, dtype=dtype) / (num_steps - 1)
    t = (1 + ramp * (VP_TIME_MIN ** (1 / rho) - 1)) ** rho
    return ((0.5 * beta_d * t**2 + beta_min * t).exp() - 1).sqrt()


def vp_betas(sigma_min: float = VP_SIGMA_MIN, sigma_max: float = VP_SIGMA_MAX) -> tuple[float, float]:
    """beta_d and beta_min of the VP process with sigma_min at VP_TIME_MIN and sigma_max at 1."""
    low, high = math.log1p(sigma_min**2), math.log1p(sigma_max**2)
    beta_d = 2 * (low / VP_TIME_MIN - high) / (VP_TIME_MIN - 1)
    return beta_d, high - 0.5 * beta_d


# The same of DDPM's process, whose betas go from 1e-4 to 0.02 in 1,000 steps (arXiv 2006.11239).
DDPM_BETAS = (19.9, 0.1)


def vp_time(sigma: float, betas: tuple[float, float] | None = None) -> float:
    """Time at which a VP process has the noise level sigma: EDM's range's, or that of beta_d, beta_min."""
    beta_d, beta_min = betas or vp_betas()
    return (math.sqrt(beta_min**2 + 2 * beta_d * math.log1p(sigma**2)) - beta_min) / beta_d


def vp_beta(t: float, betas: tuple[float, float] | None = None) -> float:
    """The rate beta(t) of the same process."""
    beta_d, beta_min = betas or vp_betas()
    return beta_min + beta_d * t


def vp_sigma(t: float, betas: tuple[float, float] | None = None) -> float:
    """The noise level at time t, inverse of `vp_time`."""
    beta_d, beta_min = betas or vp_betas()
    return math.sqrt(math.expm1(0.5 * beta_d * t**2 + beta_min * t))


def angle(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    dtype: torch.dtype,
    *,
    sigma_data: float = SIGMA_DATA,
) -> Tensor:
    """num_steps sigmas, uniform in theta^(1/rho) of the angle theta = arctan(sigma / sigma_data)."""
    low, high = (math.atan(sigma / sigma_data) ** (1 / rho) for sigma in (sigma_min, sigma_max))
    ramp = torch.linspace(high, low, num_steps, dtype=torch.float64)
    return (sigma_data * (ramp**rho).tan()).to(dtype)


def flow(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    dtype: torch.dtype,
    *,
    shift: float = 1.0,
    timestep_shift: float = 1.0,
) -> Tensor:
    """num_steps sigmas, uniform in the time u = sigma / (1 + sigma) of flow matching before its shift.

    The shift u' = a u / (1 + (a - 1) u), a = shift / timestep_shift, leaves the ends where they are. shift
    counts time from data to noise (Stable Diffusion 3), timestep_shift from noise to data (LightningDiT). rho
    is not used. In a model's own coordinates the times are sampling/native's, from pure noise on.
    """
    a = shift / timestep_shift
    high, low = (sigma / (a + sigma) for sigma in (sigma_max, sigma_min))
    u = torch.linspace(high, low, num_steps, dtype=torch.float64)
    return (a * u / (1 - u)).to(dtype)


DDPM_STEPS = 1000


def ddpm(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    dtype: torch.dtype,
    *,
    spacing: str = "stride",
) -> Tensor:
    """num_steps of the 1,000 noise levels of DDPM's linear betas (arXiv 2006.11239), as DiT samples.

    spacing: "stride" takes every k-th from the lowest on (its "ddim50": 0, 20, ..., 980), "even" spreads them
    over all with rounding (its "250"). sigma_min, sigma_max and rho are not used.
    """
    if num_steps > DDPM_STEPS:
        raise UserError(f"num_steps is {num_steps}; schedule 'ddpm' has {DDPM_STEPS} noise levels")
    if spacing == "stride":
        fitting = (k for k in range(1, DDPM_STEPS) if len(range(0, DDPM_STEPS, k)) == num_steps)
        stride = next(fitting, None)
        if stride is None:
            raise UserError(
                f"no stride makes {num_steps} of {DDPM_STEPS} noise levels; take another num_steps of "
                "schedule 'ddpm' (10, 20, 50, 100, 250, ...), or its option spacing=even"
            )
        numbers = list(range(0, DDPM_STEPS, stride))
    else:
        step = (DDPM_STEPS - 1) / (num_steps - 1)
        numbers = [round(each) for each in itertools.accumulate([0.0, *[step] * (num_steps - 1)])]
    kept = (1 - torch.linspace(1e-4, 0.02, DDPM_STEPS, dtype=torch.float64)).cumprod(0)
    return ((1 - kept) / kept).sqrt()[numbers].flip(0).to(dtype)


def sigmas(
    levels: Levels,
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    dtype: torch.dtype,
) -> list[float]:
    """The schedule's sigmas as Python floats rounded to `dtype`."""
    if num_steps < 2:
        raise UserError(f"num_steps is {num_steps}; a schedule needs at least 2 steps")
    if not 0 < sigma_min < sigma_max:
        raise UserError(f"sigma_min {sigma_min} and sigma_max {sigma_max}: need 0 < min < max")
    if not 0.5 <= rho <= 100:
        raise UserError(f"rho is {rho}; it must be 0.5 to 100")
    made = torch.as_tensor(levels(num_steps, sigma_min, sigma_max, rho, dtype))
    if made.shape != (num_steps,):
        raise UserError(
            f"the schedule made values of shape {list(made.shape)}; expected {num_steps} noise levels, those "
            "above zero, from the highest down"
        )
    return check_levels(made.tolist())


def check_levels(levels: Sequence[float]) -> list[float]:
    """The noise levels, if they fall strictly and stay above zero."""
    if not len(levels) > 1 or not all(a > b > 0 for a, b in pairwise(levels)) or math.isinf(levels[0]):
        shown = ", ".join(f"{level:g}" for level in levels[:6])
        raise UserError(
            f"the noise levels are {shown}{', ...' if len(levels) > 6 else ''}; they must be two or more "
            "that fall strictly and stay above zero (the last step to zero is added). Use fewer steps, or a "
            "wider range of sigma"
        )
    return list(levels)


SCHEDULES: dict[str, Schedule] = {
    "polynomial": Schedule(polynomial),
    "logsnr": Schedule(logsnr),  # has no exponent
    "time_uniform": Schedule(time_uniform, rho=2.0),
    "flow": Schedule(
        flow,
        options={"shift": Numbers(0, math.inf, open=True), "timestep_shift": Numbers(0, math.inf, open=True)},
    ),
    "ddpm": Schedule(ddpm, options={"spacing": ("stride", "even")}, own_ends=True),
    "angle": Schedule(angle, rho=1.0, options={"sigma_data": Numbers(0, math.inf, open=True)}),
}
