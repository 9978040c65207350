"""What the text of a user's solver file says about its step function; nothing in the file is run.

Planning, fetching and checking manifests need the options and the identity of a run, not the solver itself,
and the file may be anybody's.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from erk_bench.errors import UserError, unknown_name
from erk_bench.sampling.steps import LEVELS, Step

ARGUMENTS = ("slope", "x", "sigma", "sigma_next", "history")


class DeclaredStep:
    """Stands for a step function that is not imported: its signature, as far as the text tells it.

    options: its options with their default values; None where only running the file would tell.
    """

    def __init__(self, name: str, options: Mapping[str, object] | None) -> None:
        self.options = options
        kind = inspect.Parameter.KEYWORD_ONLY
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(key, kind, default=value) for key, value in (options or {}).items()]
        )
        self._name = name

    def __call__(self, *_: Any, **__: Any) -> Step:
        raise AssertionError(f"{self._name} was read, not imported")


def check_arguments(name: str, file: Path, positional: list[str]) -> None:
    """Refuse a function whose positional arguments are not a solver's."""
    if len(positional) != len(ARGUMENTS):
        raise UserError(
            f"{name} in '{file}' takes ({', '.join(positional)}); a solver takes ({', '.join(ARGUMENTS)}), "
            "and its options as keyword-only arguments with defaults"
        )


def declared_step(file: Path, name: str) -> DeclaredStep:
    """The step function `name` as the text of `file` declares it.

    Raises UserError for a file that is no Python, and for a function that it cannot have.
    """
    body = _parsed(file).body
    bound = list(_bindings(body))
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    if name not in bound and "*" not in bound:
        known = [node.name for node in body if isinstance(node, ast.FunctionDef)]
        if known:
            raise unknown_name(f"function in '{file}'", name, known)
    if len(functions) != 1 or bound.count(name) != 1 or functions[0].decorator_list:
        return DeclaredStep(name, None)
    arguments = functions[0].args
    if not arguments.vararg:
        positional = [item.arg for item in (*arguments.posonlyargs, *arguments.args)]
        check_arguments(name, file, positional)
    constants = _constants(body, bound)
    options: dict[str, object] = {}
    for item, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if item.arg == LEVELS:
            continue
        try:
            options[item.arg] = _value(default, constants)
        except ValueError:
            return DeclaredStep(name, None)
    return DeclaredStep(name, None if arguments.kwarg else options)


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"'{file}' cannot be imported: {type(error).__name__}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror}; check the path") from error


def _bindings(body: list[ast.stmt]) -> Iterator[str]:
    """Every name that the module's statements bind, as often as they do; "*" for a star import."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name  # what lies inside has a scope of its own
            continue
        if isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        waiting += ast.iter_child_nodes(node)


def _constants(body: list[ast.stmt], bound: list[str]) -> dict[str, object]:
    """Names that the module binds once, to a plain value."""
    found = {}
    for node in body:
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        if isinstance(target, ast.Name) and bound.count(target.id) == 1:
            assert isinstance(node, ast.Assign)
            try:
                found[target.id] = ast.literal_eval(node.value)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
    return found


def _value(node: ast.expr | None, constants: Mapping[str, object]) -> object:
    """A default value that is plain, or names a constant. Raises ValueError for any other."""
    if isinstance(node, ast.Name) and node.id in constants:
        return constants[node.id]
    if node is None:
        raise ValueError
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError from error
