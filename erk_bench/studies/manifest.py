"""Manifests: the commands of a sweep, one a line, which a Slurm array works off."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from erk_bench.base.errors import UserError
from erk_bench.base.files import write_atomic
from erk_bench.base.yaml_files import is_line
from erk_bench.studies.grid_file import Grid
from erk_bench.studies.table_file import RowSpec, TableFile

HEADER = "# erk-bench manifest 1:"
MAX_BYTES = 100_000_000
COMMANDS = ("run", "grid")  # that a line may start with


def table_lines(
    table: TableFile, rows: Sequence[RowSpec], overrides: Sequence[str], seeds: Sequence[str]
) -> list[list[str]]:
    """A `run` for each row and each text of `seeds`."""
    return [["run", *table.base, *row.set, *overrides, f"seeds={text}"] for text in seeds for row in rows]


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
    """source: what the lines compute, as 'table=digits'. Raises UserError for a word with a line break."""
    for word in (source, *(word for words in lines for word in words)):
        if not is_line(word):
            raise UserError(
                f"{word!r} has a line break or control character, and a manifest has a command a line; leave "
                "it out"
            )
    text = "".join(f"{shlex.join(words)}\n" for words in lines)
    write_atomic(path, f"{HEADER} {source}\n{text}".encode())


def sweep_name(path: Path) -> str:
    """The table or grid that a manifest computes, or 'run'."""
    words = _source(path, _lines_of(path)[0])
    return words[0].partition("=")[2] or words[0]


def _again(path: Path) -> str:
    return f"make it anew: erk-bench plan --manifest {path} table=NAME (or grid=NAME)"


def _lines_of(path: Path) -> list[str]:
    """The lines of a manifest, the header first."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise OSError(f"it has more than {MAX_BYTES:,} bytes")
        # At line feeds only: a word may hold what Unicode calls a line separator.
        lines = content.decode("utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the manifest '{path}': {error}; {_again(path)}") from error
    return [line.removesuffix("\r") for line in lines]


def _source(path: Path, first: str) -> list[str]:
    """The words of a manifest's header: what its lines compute."""
    if not first.startswith(HEADER):
        raise UserError(
            f"'{path}' is no manifest: its first line is {first[:80]!r}, not '{HEADER} ...'; {_again(path)}"
        )
    try:
        words = shlex.split(first.removeprefix(HEADER))
    except ValueError as error:
        raise UserError(f"the header of '{path}' has {error}: {first[:80]!r}; {_again(path)}") from error
    if not words or not words[0]:
        raise UserError(f"the header of '{path}' does not say what the lines compute; {_again(path)}")
    return words


def read_manifest(path: Path) -> list[list[str]]:
    """The words of each line. Raises UserError for what is no manifest, or has no lines."""
    first, *rest = _lines_of(path)
    _source(path, first)
    lines = []
    for number, text in enumerate(rest):
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UserError(
                f"line {number} of '{path}' has {error}: {text[:80]!r}; {_again(path)}"
            ) from error
        if not words or words[0] not in COMMANDS:
            raise UserError(
                f"line {number} of '{path}' is {text[:80]!r}, not a 'run' or 'grid' command; {_again(path)}"
            )
        lines.append(words)
    if not lines:
        raise UserError(f"the manifest '{path}' is empty; {_again(path)}")
    return lines
