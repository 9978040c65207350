"""Two styles of every figure, and the layout that keeps all type inside it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from erk_bench.base.errors import unknown_name

INCH = 72.0  # points
MARGIN = 0.15  # inches left free beside wrapped text


class Style(NamedTuple):
    """width: inches of every figure; None where its panels decide. size, small: points of type.

    titled: whether a figure has a title. forms: the files that are written.
    """

    width: float | None
    size: float
    small: float
    titled: bool
    forms: tuple[str, ...]

    @property
    def marker(self) -> float:
        return 5.0 if self.width is None else 3.5


# 3.25 inches is a column of most conferences' papers.
STYLES = {
    "screen": Style(None, 10.0, 8.0, True, ("png", "svg")),
    "paper": Style(3.25, 7.0, 7.0, False, ("png", "svg", "pdf")),
}
SCREEN = STYLES["screen"]


def style_named(name: str) -> Style:
    """Raises UserError for another name."""
    if name not in STYLES:
        raise unknown_name("style", name, STYLES)
    return STYLES[name]


@contextmanager
def typeset(style: Style) -> Iterator[None]:
    """Draw with the type and lines of the style."""
    keys = ("font.size", "axes.labelsize", "axes.titlesize", "figure.titlesize", "xtick.labelsize",
            "ytick.labelsize", "legend.fontsize")  # fmt: skip
    settings: dict[Any, Any] = dict.fromkeys(keys, style.size) | {"pdf.fonttype": 42}
    if style.width is not None:
        settings |= {"lines.linewidth": 0.9, "axes.linewidth": 0.6, "errorbar.capsize": 1.5}
    with matplotlib.rc_context(settings):
        yield


@functools.lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """Inches that a line of text takes."""
    # A dollar would begin a formula.
    plain = text.replace("$", "S").strip()
    return (
        float(TextPath((0, 0), plain, size=size, prop=FontProperties()).get_extents().width) / INCH
        if plain
        else 0
    )


def wrapped(text: str, width: float, size: float) -> str:
    """The text in lines of at most `width` inches, broken between words, and within those that are longer."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(joined, size) <= width:
            lines[-1] = joined
            continue
        while len(word) > 1 and text_width(word, size) > width:
            count = next(
                n for n in range(len(word) - 1, 0, -1) if n == 1 or text_width(word[:n], size) <= width
            )
            lines.append(word[:count])
            word = word[count:]
        lines.append(word)
    return "\n".join(lines)


def literal(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")


def set_title(figure: Figure, text: str, style: Style, beside: float = 0.0) -> None:
    """The figure's title, in as many lines as it needs; none on paper, where a caption is.

    beside: inches at the right that a legend takes.
    """
    if style.titled:
        size, width = style.size + 1, figure.get_figwidth()
        lines = literal(wrapped(text, width - beside - 2 * MARGIN, size))
        figure.suptitle(lines, fontsize=size, x=(width - beside) / 2 / width)


def set_panel_title(axis: Axes, text: str, width: float, style: Style) -> None:
    """The title of one panel, `width` inches wide at most."""
    size = style.size if style.width is not None else style.size + 1
    axis.set_title(literal(wrapped(text, width, size)), fontsize=size)


class Panels(NamedTuple):
    """A figure of panels. legend: its labels, in lines that fit; beside: inches it takes at the right."""

    figure: Figure
    axes: list[list[Axes]]
    legend: list[str]
    beside: float


def panels(
    rows: int,
    columns: int,
    size: tuple[float, float],
    labels: Sequence[str],
    style: Style,
    *,
    sharey: bool = False,
) -> Panels:
    """A figure with room for its legend: beside the panels, on paper below them.

    size: inches of one panel; on paper its width is the column's.
    """
    widest = 3.6 if style.width is None else style.width - 1.0
    shown = [literal(wrapped(label, widest, style.small)) for label in labels]
    lines = [line for label in shown for line in label.split("\n")]
    height = len(lines) * style.small * 1.6 / INCH + 0.2
    beside = (
        max((text_width(line, style.small) for line in lines), default=0.0) + 0.75
        if style.width is None
        else 0.0
    )
    if style.width is None:
        figsize = (size[0] * columns + beside, max(size[1] * rows, height) + 0.4)
    else:
        figsize = (style.width, size[1] * rows + height * bool(lines))
    figure, axes = plt.subplots(
        rows, columns, figsize=figsize, squeeze=False, sharey=sharey, layout="constrained"
    )
    return Panels(figure, [list(line) for line in axes], shown, beside)


def place_legend(made: Panels, handles: Sequence[Any], style: Style) -> None:
    """The legend beside the panels, or below them."""
    legend = (list(handles), made.legend)
    if style.width is None:
        made.figure.legend(*legend, loc="outside right center", fontsize=style.small)
    else:
        made.figure.legend(*legend, loc="outside lower center", fontsize=style.small)


def thinned(ticks: Sequence[float], width: float, style: Style) -> list[float]:
    """The ticks of a logarithmic axis of `width` inches whose numbers do not touch, the last one kept."""
    kept: list[float] = []
    inches = width / max(math.log(max(ticks) / min(ticks)), 1e-9) / 1.1
    for tick in sorted(ticks, reverse=True):
        if not kept or inches * math.log(kept[-1] / tick) > text_width(f"{kept[-1]:g}", style.size) + 0.06:
            kept.append(tick)
    return kept[::-1]
