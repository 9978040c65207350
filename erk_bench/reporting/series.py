"""How every figure tells its series apart, also for the colour-blind: by colour, marker and line style."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from erk_bench.reporting.table_views import TableRow

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), without yellow, which is faint on white.
BLACK, BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION = COLORS = (
    "#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "<", "h", ">")  # a star is the best cell of a grid
LINES = ("-", "--", "-.", ":")


class Look(NamedTuple):
    """How a series is drawn. No two series of a figure have the same colour and marker."""

    color: str
    marker: str
    line: str


def looks(names: Iterable[str], families: Mapping[str, str] | None = None) -> dict[str, Look]:
    """The look of every series, by name, in order.

    families: of each series, a name that it shares with others; they have one colour then, and differ in
    marker and line.
    """
    names = list(dict.fromkeys(names))
    of = families or {name: name for name in names}
    kinds = list(dict.fromkeys(of[name] for name in names))
    colors = {kind: COLORS[index % len(COLORS)] for index, kind in enumerate(kinds)}
    found: dict[str, Look] = {}
    for index, name in enumerate(names):
        color = colors[of[name]]
        taken = {look.marker for look in found.values() if look.color == color}
        siblings = sum(of[other] == of[name] for other in found)
        shifted = [MARKERS[(index + shift) % len(MARKERS)] for shift in range(len(MARKERS))]
        # A number in place of a marker is always new.
        marker = next((marker for marker in shifted if marker not in taken), f"${index + 1}$")
        found[name] = Look(color, marker, LINES[siblings % len(LINES)])
    return found


def series_names(rows: Sequence[TableRow], abscissa: Callable[[TableRow], float]) -> list[str]:
    """The series that each row is a point of: its method with the solver's options.

    The settings of a correction may change along a series, as those tuned for each number of steps do. They
    are part of the name where two rows of one guidance and abscissa differ in nothing else.
    """
    short = [
        row.method if row.labelled or row.method == row.solver else _without_settings(row.method)
        for row in rows
    ]
    places = zip(short, rows, strict=True)
    count = Counter((name, row.guidance, abscissa(row)) for name, row in places)
    ambiguous = {name for (name, _, _), number in count.items() if number > 1}
    return [row.method if name in ambiguous else name for name, row in zip(short, rows, strict=True)]


def _without_settings(method: str) -> str:
    return re.sub(r" \([^()]*\)$", "", method)
