"""Manifests: the commands of a sweep, one a line, which a Slurm array works off."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erk_bench.errors import UserError
from erk_bench.files import write_atomic
from erk_bench.grids import Grid

HEADER = "# erk-bench manifest 1:"
COMMANDS = ("run", "grid")  # that a line may start with


def table_lines(
    table: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    overrides: Sequence[str],
    seeds: Sequence[str],
) -> list[list[str]]:
    """A `run` for each row and each text of `seeds`."""
    return [
        ["run", *table["base"], *row["set"], *overrides, f"seeds={text}"] for text in seeds for row in rows
    ]


def grid_lines(name: str, grid: Grid, overrides: Sequence[str]) -> list[list[str]]:
    """A `grid` for each tree: the cells that share trajectories, and so belong into one task."""
    trunk = [key for key in grid.axes if key.partition(".")[0] != "correction"]
    rest = [override for override in overrides if override.partition("=")[0] not in trunk]
    places = {tuple(place[key] for key in trunk): None for place in grid.places()}
    return [
        ["grid", f"grid={name}", *(f"{key}={value}" for key, value in zip(trunk, values, strict=True)),
         *rest, "views=false"]
        for values in places
    ]  # fmt: skip


def write_manifest(path: Path, source: str, lines: Sequence[Sequence[str]]) -> None:
    """source: what the lines compute, such as 'table=digits'."""
    text = "".join(f"{shlex.join(words)}\n" for words in lines)
    write_atomic(path, f"{HEADER} {source}\n{text}".encode())


def sweep_name(path: Path) -> str:
    """The table or grid that a manifest computes, or 'run'."""
    words = shlex.split(path.read_text(encoding="utf-8").splitlines()[0].removeprefix(HEADER))
    return words[0].partition("=")[2] or words[0]


def read_manifest(path: Path) -> list[list[str]]:
    """The words of each line. Raises UserError for what is no manifest, or has no lines."""
    again = f"make it anew: erk-bench plan --manifest {path} table=NAME (or grid=NAME)"
    try:
        first, *rest = path.read_text(encoding="utf-8").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the manifest '{path}': {error}; {again}") from error
    if not first.startswith(HEADER):
        raise UserError(
            f"'{path}' is no manifest: its first line is '{first[:80]}', not '{HEADER} ...'; {again}"
        )
    lines = []
    for number, text in enumerate(rest):
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UserError(f"line {number} of '{path}' has {error}: {text}; {again}") from error
        if not words or words[0] not in COMMANDS:
            raise UserError(f"line {number} of '{path}' is '{text}', not a 'run' or 'grid' command; {again}")
        lines.append(words)
    if not lines:
        raise UserError(f"the manifest '{path}' is empty; {again}")
    return lines
