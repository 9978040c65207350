"""The solver that a run names: a row of SOLVERS, or a step function in a file of the user's own."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
from pathlib import Path

from erk_bench.declared import check_arguments, declared_step
from erk_bench.errors import UserError, unknown_name
from erk_bench.files import file_sha256
from erk_bench.sampling.sample import solver_row
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.sampling.steps import Solver, StepFunction
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
    step: StepFunction = function
    return step
