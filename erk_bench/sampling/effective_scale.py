"""How strong a guidance really is along a run: its effective scale, in units of classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.sampling.equation import Equation
from erk_bench.sampling.guided import Denoiser, begin_step, share_along, under_null_class
from erk_bench.sampling.loop import integrate


class _Remembering:
    """A denoiser that keeps its last prediction."""

    def __init__(self, net: Callable[..., Tensor]) -> None:
        self._net = net
        self._last: Tensor | None = None

    def __call__(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None) -> Tensor:
        made: Tensor = self._net(x, sigma, condition)
        self._last = made
        return made

    def take(self) -> Tensor | None:
        """Its prediction since the last time that it was taken; None where it was not evaluated."""
        last, self._last = self._last, None
        return last


class _Watched:
    """A guided denoiser whose scale is taken at every evaluation."""

    def __init__(self, guided: Denoiser, main: _Remembering, guiding: _Remembering) -> None:
        self._guided, self._main, self._guiding = guided, main, guiding
        self.scales: list[Tensor] = []  # [B] each

    def begin_step(self, index: int) -> None:
        begin_step(self._guided, index)

    def __call__(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None) -> Tensor:
        found = self._guided(x, sigma, condition)
        main, guide = self._main.take(), self._guiding.take()
        if main is not None and guide is not None:
            main, guide = main.to(x.dtype), guide.to(x.dtype)
            self.scales.append(share_along(found - guide, main - guide).abs().flatten())
        elif main is not None:  # nothing guides here
            self.scales.append(torch.ones(len(x), dtype=x.dtype, device=x.device))
        return found


@torch.inference_mode()
def effective_scale(
    equation: Equation,
    net: Callable[..., Tensor],
    noise: Tensor,
    condition: Tensor | None = None,
    *,
    guide: Callable[..., Tensor],
) -> Tensor:
    """The effective guidance scale of each sample's trajectory, [B] ("Guidance Matters", arXiv 2602.22570).

    At an evaluation it is |<D - D_g, u>| / |u|^2, how far the guided prediction D lies from the guiding one
    along u = D_m - D_g; of the trajectory, the mean over its evaluations. That of classifier-free guidance is
    its weight, and where nothing guides it is 1. net, noise, condition, guide: as `solve` takes them.
    Raises UserError for a solver whose samples have steps of their own.
    """
    if equation.solver.row.adaptive:
        raise UserError(
            f"with solver '{equation.solver.name}' every sample makes steps of its own; effective scales are "
            "means over the same steps: choose a solver of fixed steps"
        )
    main = _Remembering(net)
    guiding = _Remembering(under_null_class(net) if guide is net else guide)
    problem = equation.problem(main, guiding)
    watched = _Watched(problem.denoiser, main, guiding)
    start = noise.to(equation.dtype) * problem.run.levels[0]
    integrate(watched, start, problem.run, condition, equation.correct(), equation.churn)
    return torch.stack(watched.scales).mean(dim=0)
