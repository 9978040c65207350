"""A metric against the effective scale of guidance, one line a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from erk_bench.reporting.series import looks
from erk_bench.reporting.styles import SCREEN, Style, panels, place_legend, set_title, typeset
from erk_bench.reporting.table_views import Estimate


def scale_figure(
    title: str, metric: str, methods: Mapping[str, Sequence[tuple[float, Estimate]]], style: Style = SCREEN
) -> Figure:
    """methods: points of effective scale and estimate by the method's name; the first one is drawn thick.

    Without error bars: all rows share their seeds, so that differences have much smaller errors than values.
    """
    look = looks(methods)
    with typeset(style):
        made = panels(1, 1, (6.0, 4.4), list(methods), style)
        (axis,) = made.axes[0]
        handles = []
        for number, (name, points) in enumerate(methods.items()):
            ordered = sorted(points)
            handles += axis.plot(
                [scale for scale, _ in ordered], [value for _, (value, _) in ordered],
                color=look[name].color, marker=look[name].marker, linestyle=look[name].line,
                markersize=style.marker, linewidth=2.5 if number == 0 else 1.0, zorder=2 if number else 3,
            )  # fmt: skip
        axis.set(xlabel="effective scale (of CFG: its weight)", ylabel=metric)
        axis.grid(alpha=0.3)
        place_legend(made, handles, style)
        set_title(made.figure, title, style, made.beside)
    return made.figure
