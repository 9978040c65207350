"""The solver that a run names: a row of SOLVERS, or a step function in a file of the user's own."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from erk_bench.declared import check_arguments, declared_step
from erk_bench.errors import UserError, unknown_name
from erk_bench.files import file_sha256
from erk_bench.sampling.sample import solver_row
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.sampling.steps import Node, Slope, Solver, Step, StepFunction
from erk_bench.spec import SolverSpec


def solver_of(spec: SolverSpec) -> Solver:
    """The solver with its options checked, ready to run: imports a user's file. Raises UserError."""
    row = facts_of(spec)
    if spec.path is not None:
        row = solver_row(user_step(spec.path, spec.sha256))
        row.check(spec.name, dict(spec.options))
    return row


def facts_of(spec: SolverSpec) -> Solver:
    """The same facts about the solver without running any code of a user's file; its step does not work.

    Raises UserError for unknown solvers and options, as far as the text of the file tells.
    """
    if spec.path is not None:
        step = declared_step(*split_path(spec.path))
        row = solver_row(step)
        if step.options is None:
            return row
    elif spec.name in SOLVERS:
        row = SOLVERS[spec.name]
    else:
        raise unknown_name("solver", spec.name, [*SOLVERS, "or solver.path=FILE.py:FUNCTION"])
    row.check(spec.name, dict(spec.options))
    return row


def split_path(path: str) -> tuple[Path, str]:
    """FILE.py:FUNCTION as its two parts."""
    file, colon, function = path.rpartition(":")
    if not colon or not file.endswith(".py") or not function.isidentifier():
        raise UserError(f"solver.path is '{path}'; expected FILE.py:FUNCTION, for example my_solver.py:step")
    found = Path(file).expanduser()
    if not found.is_file():
        raise UserError(f"solver.path names '{found}', which does not exist (looked in '{Path.cwd()}')")
    return found, function


@functools.cache
def user_step(path: str, sha256: str) -> StepFunction:
    """The step function of a user's file, which must still have that hash. Raises UserError."""
    file, name = split_path(path)
    if file_sha256(file) != sha256:
        raise UserError(f"'{file}' has changed since this run was made; start a new run with solver.path")
    module_name = f"erk_bench_user_solver_{sha256[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look themselves up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises is a mistake in it
        raise UserError(f"'{file}' cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise unknown_name(f"function in '{file}'", name, known)
    positional = [
        item.name
        for item in inspect.signature(function).parameters.values()
        if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)
    ]
    check_arguments(name, file, positional)
    return _checked(function, name, file)


def _checked(function: StepFunction, name: str, file: Path) -> StepFunction:
    """The step function, whose result is looked at and whose errors are told where they arose."""

    @functools.wraps(function)
    def step(
        slope: Slope, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Step], **options: object
    ) -> Step:
        try:
            made: object = function(slope, x, sigma, sigma_next, history, **options)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever the user's code raises is a mistake in it
            raise UserError(_where(error, name, file)) from error
        problem = _problem(made, x)
        if problem:
            raise UserError(
                f"{name} in '{file}' returned {problem}; expected erk_bench.Step(x_next, node, partner, "
                "span, ahead), with states like x (shape, dtype, device), as in the README"
            )
        assert isinstance(made, Step)
        return made

    return step


def _where(error: Exception, name: str, file: Path) -> str:
    """One line: the error, and the last line of the user's own file that it went through."""
    here = file.resolve()
    frames = [
        each for each in traceback.extract_tb(error.__traceback__) if Path(each.filename).resolve() == here
    ]
    at = f" at line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
    text = " ".join(str(error).split())
    return f"{name} in '{file}' failed{at} ({type(error).__name__}: {text})"


def _problem(made: object, x: Tensor) -> str:
    """What is wrong with what a step function returned, or ""."""
    if not isinstance(made, Step):
        return f"a {type(made).__name__}"
    for part, kinds in (("node", Node), ("partner", Node | None), ("ahead", Node | None)):
        if not isinstance(getattr(made, part), kinds):
            wanted = "a Node" if kinds is Node else "a Node or None"
            return f"a Step whose {part} is a {type(getattr(made, part)).__name__}, not {wanted}"
    span: object = made.span
    if isinstance(span, bool) or not isinstance(span, (int, float)):
        return f"a Step whose span is {_described(span)}, not a number"
    states = {"x_next": made.x_next}
    for part, node in (("node", made.node), ("partner", made.partner), ("ahead", made.ahead)):
        if node is not None:
            states |= {f"{part}.x": node.x, f"{part}.slope": node.slope}
    for part, state in states.items():
        if _described(state) != _described(x):
            return f"a Step whose {part} is {_described(state)}, not {_described(x)}"
    return ""


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')} on {value.device}"
