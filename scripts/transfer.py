"""How a choice of (w_stiff, w_con) carries over: the best cell of each panel, used in every other panel.

    erk-bench grid grid=digits_transfer to=A
    erk-bench grid grid=digits_transfer seeds=2000000-2000499 to=B
    erk-bench grid grid=digits_transfer model=digits-seed11 to=C
    python scripts/transfer.py chosen=A/digits_transfer.csv "other seeds=B/digits_transfer.csv" ...

Choices are made in the panels of the first file. A line has the difference to the plain solver where the pair
is used, with its standard error, and that of the best pair there.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

METRIC = "fd_digits"
AXES = ("guidance", "schedule.num_steps")
PAIR = ("correction.w_stiff", "correction.w_con")


class Cell(NamedTuple):
    """Difference to the plain solver, its standard error, and the verdict."""

    difference: float
    error: float
    verdict: str

    def __str__(self) -> str:
        return f"{self.difference:+.3f} ± {self.error:.3f}"


HEADING = (
    "FD-digits of ERK-Guid minus that of plain Heun on the same seeds (lower is better), with one standard "
    "error. The first panels are those in which the pairs were chosen."
)
COLUMNS = (
    "| used with | difference to plain | verdict | of the best pair there |",
    "|---|---|---|---|",
)

Panel = dict[tuple[str, ...], Cell]  # by the values of PAIR


def read_panels(path: Path) -> dict[tuple[str, ...], Panel]:
    """The cells of a grid's CSV by panel: the values of AXES."""
    panels: dict[tuple[str, ...], Panel] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            cell = Cell(
                float(row[f"{METRIC}_difference"]), float(row[f"{METRIC}_difference_se"]), row["verdict"]
            )
            panels.setdefault(tuple(row[name] for name in AXES), {})[tuple(row[name] for name in PAIR)] = cell
    return panels


def best(panel: Panel) -> tuple[str, ...]:
    """The pair of the lowest distance."""
    return min(panel, key=lambda pair: panel[pair].difference)


def transfer(files: dict[str, Path]) -> str:
    """The page: a part for each pair that is the best of a panel of the first file, used in every panel."""
    read = {name: read_panels(path) for name, path in files.items()}
    chosen = next(iter(read.values()))
    sources: dict[tuple[str, ...], list[str]] = {}
    for source, panel in chosen.items():
        sources.setdefault(best(panel), []).append(_said(source))
    lines = ["# How a choice of (w_stiff, w_con) carries over", "", HEADING]
    for pair, where in sources.items():
        lines += ["", f"## ({', '.join(pair)}), the best of: {'; '.join(where)}", "", *COLUMNS]
        for name, panels in read.items():
            for target, other in panels.items():
                own = best(other)
                used = f"{_said(target)}{'' if panels is chosen else f', {name}'}"
                told = f"{other[own]} ({', '.join(own)})"
                lines.append(f"| {used} | {other[pair]} | {other[pair].verdict} | {told} |")
    return "\n".join(lines) + "\n"


def _said(panel: tuple[str, ...]) -> str:
    guidance, steps = panel
    return f"{'no guidance' if guidance == 'none' else guidance}, {steps} steps"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "files", nargs="+", metavar="NAME=CSV", help="grids of the same cells, the first chooses"
    )
    words = parser.parse_args()
    print(
        transfer({name: Path(path) for name, _, path in (word.partition("=") for word in words.files)}),
        end="",
    )


if __name__ == "__main__":
    main()
