"""The rules of the layout (CONTRIBUTING.md), read off the imports."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "erk_bench"

# The room of each module, and its floor: an import goes to a lower floor or stays in its room.
FLOORS = {
    "base": 1, "digits": 1, "sampling": 2, "networks": 2, "spec": 2, "evaluation": 3, "runs": 4,
    "training": 4, "reporting": 5,
    "studies": 6, "commands": 7, "cli": 8, "diffusers": 3,
}  # fmt: skip


@cache
def modules() -> dict[str, Path]:
    """Every module of the package, by dotted name below it ("" is the package itself)."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes that are carried out when a module is imported: not those of its functions."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """The dotted names that nodes import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{item.name}" for item in node.names}
    return found


@cache
def imports(*, at_once: bool = False) -> dict[str, set[str]]:
    """The modules of the package that each module imports. at_once: when it is imported itself."""
    found = {}
    for name, file in modules().items():
        mine = set()
        tree = ast.parse(file.read_text())
        for each in imported(at_import(tree) if at_once else ast.walk(tree)):
            inside = each.removeprefix("erk_bench.") if each.startswith("erk_bench.") else None
            while inside is not None and inside not in modules():
                inside = inside.rpartition(".")[0]  # a name in a module
            if inside is not None and inside != name:
                mine.add(inside)
        found[name] = mine
    return found


def room(module: str) -> str:
    """The command line's three files are one room."""
    name = module.partition(".")[0]
    return "cli" if name in ("entry", "multirun") else name


def test_the_rooms_are_those_of_the_plan() -> None:
    """At most six loose files and eight floors."""
    assert {room(name) for name in modules() if name} == set(FLOORS)
    assert len(list(PACKAGE.glob("*.py"))) <= 6 and len(set(FLOORS.values())) <= 8


@pytest.mark.parametrize("name", [name for name in modules() if name])
def test_an_import_goes_down_or_stays_in_its_room(name: str) -> None:
    for other in imports()[name]:
        if other:  # the package's own face is for users and scripts; its version is there
            assert room(other) == room(name) or FLOORS[room(other)] < FLOORS[room(name)], (name, other)


def test_sampling_is_pure_mathematics() -> None:
    for name in modules():
        if room(name) == "sampling":
            outside = {other for other in imports()[name] if room(other) != "sampling"}
            assert outside <= {"base.errors", "base.transfers"}, name


def test_no_circles() -> None:
    """Neither between rooms nor, when they are imported, between modules."""
    rooms: dict[str, set[str]] = {}
    for name, others in imports().items():
        if name:
            rooms.setdefault(room(name), set()).update(
                {room(other) for other in others if other} - {room(name)}
            )
    files = {name: others - {""} for name, others in imports(at_once=True).items() if name}
    for graph in (rooms, files):
        left = {name: others & graph.keys() for name, others in graph.items()}
        while left:
            free = {name for name, others in left.items() if not others}
            assert free, f"a circle among {sorted(left)}"
            left = {name: others - free for name, others in left.items() if name not in free}


def test_commands_are_called_by_nobody() -> None:
    for name, others in imports().items():
        if room(name) not in ("commands", "cli"):
            assert not [other for other in others if room(other) == "commands"], name


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("hydra", ("multirun", "commands.compose")),
        ("omegaconf", ("multirun", "commands.compose")),
        ("wandb", ("reporting.trackers.wandb",)),
        ("optuna", ("studies.search", "studies.search_study")),
        ("tensorboard", ("reporting.trackers.tensorboard",)),
    ],
)
def test_a_library_has_one_home(package: str, homes: tuple[str, ...]) -> None:
    for name, file in modules().items():
        tops = {each.partition(".")[0] for each in imported(ast.walk(ast.parse(file.read_text())))}
        if package in tops:
            assert any(name == home or name.startswith(f"{home}.") for home in homes), name


def test_a_class_has_its_name_alone() -> None:
    names = Counter(
        node.name
        for file in modules().values()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in names.items() if count > 1]


def test_contributing_shows_the_rooms() -> None:
    """Its tree has a line for each."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    for name in FLOORS:
        assert f"{name}/" in text or f"{name}.py" in text, name
