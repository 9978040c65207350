"""ERK-Guid for diffusers' pipelines: schedulers that take the place of a pipeline's own.

    from erk_bench.diffusers import ERKGuidDPMSolverScheduler
    pipe.scheduler = ERKGuidDPMSolverScheduler.from_config(pipe.scheduler.config, w_stiff=0.5, w_con=0.5)

Each is diffusers' own scheduler with the correction of `erk_bench.sampling.corrections` (arXiv 2603.03692)
after a step. It acts in variance-exploding coordinates: a state x = alpha (data + sigma noise) is divided by
alpha, so that dx/dsigma = (x - D) / sigma is the predicted noise. With variance preservation
alpha = 1 / sqrt(1 + sigma^2); with flow matching x = (1 - s) data + s noise, alpha = 1 - s and
sigma = s / (1 - s). w_stiff = 0 is diffusers' own, and so is a sample whose gate is shut: to the last bit.
The state keeps its dtype; the correction of a float16 or bfloat16 state is computed in float32.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from erk_bench.base.extras import need

need("diffusers", "erk_bench.diffusers")

from diffusers import DPMSolverSinglestepScheduler, HeunDiscreteScheduler
from diffusers import SchedulerMixin as SchedulerMixin  # looked for here when a pipeline is loaded
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.sampling.corrections import W_CON, erk_guid
from erk_bench.sampling.steps import Node, Step

STRENGTHS = {"w_stiff": 0.0, "w_con": W_CON}

# diffusers does not tell the types of its schedulers' attributes.
_Heun: Any = HeunDiscreteScheduler
_DPMSolver: Any = DPMSolverSinglestepScheduler

F = TypeVar("F", bound=Callable[..., Any])


def _like(parent: Callable[..., Any]) -> Callable[[F], F]:
    """Give a method the signature of its parent's: pipelines read there which settings a scheduler takes."""

    def decorate(method: F) -> F:
        method.__signature__ = inspect.signature(parent)  # type: ignore[attr-defined]  # functions may carry one
        return method

    return decorate


def _with_strengths(parent: Any) -> Callable[..., None]:
    """An __init__ with the parent's settings and (w_stiff, w_con), all of them in the scheduler's config."""

    def initialize(self: Any, *args: Any, **options: Any) -> None:
        for name, default in STRENGTHS.items():
            value = options.pop(name, default)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and value >= 0):
                raise UserError(f"{name} is {value!r}; it must be a number of 0 or more, and finite")
        parent.__init__.__wrapped__(self, *args, **options)
        self._check()

    own = inspect.signature(parent.__init__)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=float)
        for name, default in STRENGTHS.items()
    ]
    initialize.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]  # functions may carry one
    wrapped: Callable[..., None] = register_to_config(initialize)  # type: ignore[no-untyped-call]  # diffusers
    return wrapped


def _wide(x: Tensor) -> Tensor:
    """The same values in the dtype that a correction is computed in: float32, or float64 for float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _where_open(step: Step, config: Any, own: Tensor, scale: float = 1.0) -> Tensor:
    """The corrected state times `scale`, in the dtype of `own`; `own` itself where the gate is shut."""
    corrected = erk_guid(config.w_stiff, config.w_con)(step)
    if corrected.gate is None:
        return own
    opened = corrected.gate.reshape(-1, *[1] * (own.ndim - 1))
    return torch.where(opened, (corrected.x_next * scale).to(own.dtype), own)


class ERKGuidHeunScheduler(_Heun):  # type: ignore[misc]  # of type Any
    """Heun's method with ERK-Guid: two evaluations a step, none of them for the correction.

    The pair is that of the step before: its Euler and its Heun solution at the same noise level, so the first
    step has none (docs/method.md). w_stiff: strength. w_con: stiffness above which it acts; both 0 or more.
    Prediction types: epsilon, v_prediction, sample.
    Raises UserError for settings that it cannot serve.
    """

    __init__ = _with_strengths(HeunDiscreteScheduler)

    def _check(self) -> None:
        if self.config.prediction_type not in ("epsilon", "v_prediction", "sample"):
            hint = (
                "; ERKGuidDPMSolverScheduler serves flow_prediction"
                if self.config.prediction_type == "flow_prediction"
                else ""
            )
            raise UserError(
                f"prediction_type is '{self.config.prediction_type}'; ERKGuidHeunScheduler serves epsilon, "
                f"v_prediction and sample{hint}"
            )
        self._euler: Node | None = None

    @_like(HeunDiscreteScheduler.set_timesteps)
    def set_timesteps(self, *args: Any, **options: Any) -> None:
        """As diffusers' own; forgets the last trajectory."""
        self._euler = None
        super().set_timesteps(*args, **options)

    @_like(HeunDiscreteScheduler.step)
    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """One evaluation's part of a step, as diffusers' own; the second one of a step is corrected."""
        if not self.state_in_first_order:
            start, slope = self.sample, self.prev_derivative
        first = self.state_in_first_order
        found = super().step(model_output, timestep, sample)
        if not first and self.config.w_stiff:
            sigma, sigma_next = (float(self.sigmas[self.step_index - back]) for back in (2, 1))
            step = Step(
                _wide(found.prev_sample), Node(_wide(start), _wide(slope), sigma), self._euler,
                sigma - sigma_next, None,
            )  # fmt: skip
            # Euler's solution, which this evaluation was made at, pairs with the start of the next step.
            ahead = (_wide(sample) - _wide(found.pred_original_sample)) / sigma_next
            self._euler = Node(_wide(sample), ahead, sigma_next)
            found.prev_sample = _where_open(step, self.config, found.prev_sample)
        return found if return_dict else (found.prev_sample, found.pred_original_sample)


class ERKGuidDPMSolverScheduler(_DPMSolver):  # type: ignore[misc]  # of type Any
    """DPM-Solver-2, single-step, with ERK-Guid: the pair is the start and the midpoint of the same step.

    algorithm_type dpmsolver (noise prediction, as the paper has it) or dpmsolver++ (data prediction,
    diffusers' default), solver_order 2. w_stiff: strength. w_con: stiffness above which it acts; both 0 or
    more.
    Prediction types: epsilon, v_prediction, sample, and flow_prediction with use_flow_sigmas=True.
    Raises UserError for settings that it cannot serve.
    """

    __init__ = _with_strengths(DPMSolverSinglestepScheduler)

    def _check(self) -> None:
        config = self.config
        kinds = ("epsilon", "v_prediction", "sample", "flow_prediction")
        if config.prediction_type not in kinds:
            raise unknown_name("prediction_type", str(config.prediction_type), kinds)
        if (config.prediction_type == "flow_prediction") != bool(config.use_flow_sigmas):
            raise UserError(
                f"prediction_type is '{config.prediction_type}' and use_flow_sigmas is "
                f"{config.use_flow_sigmas}; flow_prediction and use_flow_sigmas=True go together"
            )
        if config.w_stiff and config.solver_order != 2:
            raise UserError(
                f"solver_order is {config.solver_order}; ERK-Guid needs the pair of DPM-Solver-2: "
                "pass solver_order=2"
            )
        if config.w_stiff and config.algorithm_type.startswith("sde"):
            raise UserError(
                f"algorithm_type is '{config.algorithm_type}'; ERK-Guid needs a deterministic one: "
                "dpmsolver, dpmsolver++"
            )

    @_like(DPMSolverSinglestepScheduler.step)
    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """One evaluation's part of a step, as diffusers' own; the second one of a step is corrected."""
        found = super().step(model_output, timestep, sample, generator)
        index = self.step_index - 1
        second = self.order_list[index] == 2 and self.model_outputs[-2] is not None
        if second and self.config.w_stiff:
            start, middle = self._node(self.sample, -2, index - 1), self._node(sample, -1, index)
            alpha, sigma = self._alpha_sigma(index + 1)
            step = Step(_wide(found.prev_sample) / alpha, start, middle, start.sigma - sigma, None)
            found.prev_sample = _where_open(step, self.config, found.prev_sample, alpha)
        return found if return_dict else (found.prev_sample,)

    def _alpha_sigma(self, index: int) -> tuple[float, float]:
        """alpha, and sigma in variance-exploding coordinates, at a noise level."""
        alpha, sigma = (float(each) for each in self._sigma_to_alpha_sigma_t(self.sigmas[index]))
        return alpha, sigma / alpha

    def _node(self, sample: Tensor, output: int, index: int) -> Node:
        """A state and what the network said of it, in variance-exploding coordinates."""
        alpha, sigma = self._alpha_sigma(index)
        x, said = _wide(sample) / alpha, _wide(self.model_outputs[output])
        slope = said if self.config.algorithm_type == "dpmsolver" else (x - said) / sigma
        return Node(x, slope, sigma)


__all__ = ["ERKGuidDPMSolverScheduler", "ERKGuidHeunScheduler"]
