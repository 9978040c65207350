"""What code of a user's own may be: its arguments, and what it must give back; both are checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erk_bench.base.own_code import CodePlace, checked, described
from erk_bench.sampling.corrections import Correction, correcting
from erk_bench.sampling.equation import stepping
from erk_bench.sampling.guidance import Guidance, combining
from erk_bench.sampling.schedules import Schedule
from erk_bench.sampling.steps import Node, Solver, Step


class Kind(NamedTuple):
    """A row of KINDS. arguments: of the function, options apart. row: what may be given instead of a
    function. of(function, place): the row of a function, its results checked."""

    arguments: tuple[str, ...]
    row: type[Any]
    of: Callable[[Callable[..., Any], CodePlace], Any]


def _step_problem(made: object, arguments: tuple[Any, ...]) -> str:
    """What is wrong with what a step function returned, or ""."""
    x = arguments[1]
    if not isinstance(made, Step):
        return f"a {type(made).__name__}"
    for part, kinds in (("node", Node), ("partner", Node | None), ("ahead", Node | None)):
        if not isinstance(getattr(made, part), kinds):
            wanted = "a Node" if kinds is Node else "a Node or None"
            return f"a Step whose {part} is a {type(getattr(made, part)).__name__}, not {wanted}"
    span: object = made.span
    if isinstance(span, bool) or not isinstance(span, (int, float)):
        return f"a Step whose span is {described(span)}, not a number"
    states = {"x_next": made.x_next}
    for part, node in (("node", made.node), ("partner", made.partner), ("ahead", made.ahead)):
        if node is not None:
            states |= {f"{part}.x": node.x, f"{part}.slope": node.slope}
    for part, state in states.items():
        if described(state) != described(x):
            return f"a Step whose {part} is {described(state)}, not {described(x)}"
    return ""


def _solver(function: Callable[..., Any], place: CodePlace) -> Solver:
    expected = (
        "erk_bench.Step(x_next, node, partner, span, ahead), with states like x (shape, dtype, device), as "
        "in examples/my_solver.py"
    )
    return stepping(checked(function, place, expected, _step_problem))


def _levels_problem(made: object, arguments: tuple[Any, ...]) -> str:
    try:
        shape = list(torch.as_tensor(made, dtype=arguments[-1]).shape)
    except (TypeError, ValueError, RuntimeError):
        return f"a {type(made).__name__}"
    return "" if shape == [arguments[0]] else f"values of shape {shape}"


def _schedule(function: Callable[..., Any], place: CodePlace) -> Schedule:
    expected = "num_steps falling noise levels above zero, as a list or tensor"
    return Schedule(checked(function, place, expected, _levels_problem))


def _state_problem(made: object, like: Tensor) -> str:
    return "" if described(made) == described(like) else f"{described(made)}, not {described(like)}"


def _guidance(function: Callable[..., Any], place: CodePlace) -> Guidance:
    expected = "the guided prediction of the denoised image, like x"
    return combining(checked(function, place, expected, lambda made, given: _state_problem(made, given[0])))


def _correction(function: Callable[..., Any], place: CodePlace) -> Correction:
    expected = "the corrected next state, like step.x_next"
    return correcting(
        checked(function, place, expected, lambda made, given: _state_problem(made, given[0].x_next))
    )


KINDS: dict[str, Kind] = {
    "solver": Kind(("slope", "x", "sigma", "sigma_next", "history"), Solver, _solver),
    "schedule": Kind(("num_steps", "sigma_min", "sigma_max", "rho", "dtype"), Schedule, _schedule),
    "guidance": Kind(("x", "sigma", "main", "guide", "weight"), Guidance, _guidance),
    "correction": Kind(("step", "w_stiff", "w_con"), Correction, _correction),
}
