"""What the text of a user's file says about a function in it; nothing in the file is run.

Planning, fetching and checking manifests need the options and the identity of a run, not the code itself, and
the file may be anybody's.
"""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.own_code import check_arguments


class Declared:
    """Stands for a function that is not imported: its signature, as far as the text tells it.

    options: its options with their default values; None where only running the file would tell, and the
    signature takes any.
    """

    def __init__(self, name: str, options: Mapping[str, object] | None) -> None:
        self.options = options
        kind = inspect.Parameter
        found = [kind(key, kind.KEYWORD_ONLY, default=value) for key, value in (options or {}).items()]
        self.__signature__ = inspect.Signature(
            found if options is not None else [kind("options", kind.VAR_KEYWORD)]
        )
        self.__name__ = name

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError(f"{self.__name__} was read, not imported")


def declared(
    file: Path, name: str, kind: str, wanted: Sequence[str], given: Collection[str] = ()
) -> Declared:
    """The function `name` as the text of `file` declares it.

    wanted: the arguments that its kind takes. given: options that are no setting, as we give them.

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
        return Declared(name, None)
    arguments = functions[0].args
    if not arguments.vararg:
        positional = [item.arg for item in (*arguments.posonlyargs, *arguments.args)]
        check_arguments(kind, name, file, positional, wanted)
    constants = _constants(body, bound)
    options: dict[str, object] = {}
    for item, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if item.arg in given:
            continue
        if default is None:
            raise UserError(f"option '{item.arg}' of {name} in '{file}' has no default; give it one")
        try:
            options[item.arg] = _value(default, constants)
        except ValueError:
            return Declared(name, None)
    return Declared(name, None if arguments.kwarg else options)


def attributes(file: Path, name: str) -> dict[str, object]:
    """The plain values that the text of `file` sets as attributes of `name`: NAME.title = "energy"."""
    found: dict[str, object] = {}
    body = _parsed(file).body
    constants = _constants(body, list(_bindings(body)))
    for node in body:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        target = node.targets[0]
        owner = target.value if isinstance(target, ast.Attribute) else None
        if isinstance(target, ast.Attribute) and isinstance(owner, ast.Name) and owner.id == name:
            try:
                found[target.attr] = _value(node.value, constants)
            except ValueError as error:
                raise UserError(
                    f"{name}.{target.attr} at line {node.lineno} of '{file}' is no plain value; give a text, "
                    "number, True or False, since the file is read before it runs"
                ) from error
    return found


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


# Of two numbers, in a default such as 2 / 3.
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


def _value(node: ast.expr, constants: Mapping[str, object]) -> object:
    """A default value that is plain, names a constant, or is arithmetic of two numbers; else ValueError."""
    if isinstance(node, ast.Name) and node.id in constants:
        return constants[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        both = [
            _value(side, {}) if isinstance(side, ast.Constant) else None for side in (node.left, node.right)
        ]
        if all(type(each) in (int, float) for each in both) and (both[1] or type(node.op) is not ast.Div):
            return _ARITHMETIC[type(node.op)](*both)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError from error
