"""Matplotlib plots that are readable at the width of a page, in colours that colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from section import Interval

# Okabe and Ito's palette, without its yellow, which is too light for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lecture",
    "font.size": 10,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def axes_of(count: int = 1, *, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """Return a figure with some plots side by side."""
    figure = Figure((7.5, height), layout="constrained")
    return figure, [figure.add_subplot(1, count, index + 1) for index in range(count)]


def line(
    axes: Axes, number: int, name: str, x: Sequence[float], y: Sequence[Interval | float], *, style: str = "-"
) -> None:
    """Draw one line; intervals become whiskers. `number` selects colour and marker."""
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    middle = [value.mean if isinstance(value, Interval) else value for value in y]
    axes.plot(x, middle, style, color=colour, marker=marker, markersize=5, linewidth=1.6, label=name)
    for at, value in zip(x, y, strict=True):
        if isinstance(value, Interval):
            axes.plot([at, at], [value.low, value.high], color=colour, linewidth=1.2, alpha=0.7)


def bars(axes: Axes, groups: Sequence[str], series: dict[str, Sequence[Interval | float]]) -> None:
    """Draw one group of vertical bars for each name, with whiskers."""
    width = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        x = [group - 0.4 + width * (number + 0.5) for group in range(len(groups))]
        heights = [value.mean if isinstance(value, Interval) else value for value in values]
        axes.bar(x, heights, width * 0.92, color=COLOURS[number % len(COLOURS)], label=name)
        for at, value in zip(x, values, strict=True):
            if isinstance(value, Interval):
                axes.plot([at, at], [value.low, value.high], color="#222222", linewidth=1.2)
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(visible=False, axis="x")


def percent(axes: Axes, *, top: float = 1.0) -> None:
    """Show the y axis in percent from 0."""
    axes.set_ylim(0, top * 1.03)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def ticks(axes: Axes, at: Sequence[float]) -> None:
    """Name the places of an x axis that is logarithmic."""
    axes.set_xscale("log")
    axes.set_xticks(at, [f"{value:,g}" for value in at])
    axes.set_xticks([], minor=True)


def save(draw: Callable[[], Figure], path: Path) -> None:
    """Draw a plot in this module's style; write an SVG (the same bytes for the same data) or a PNG."""
    with mpl.rc_context({**mpl.rcParamsDefault, **STYLE}):
        figure = draw()
        if path.suffix == ".svg":
            figure.savefig(path, metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(path, dpi=110)
