"""Line and bar plots as SVG by matplotlib, which is imported when a plot is drawn.

An SVG brings its own card and follows the reader's light or dark theme by CSS. The same data gives the same
bytes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from io import StringIO
from itertools import groupby, pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from alexnet_model.extras import needs
from alexnet_model.records import Precision

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 4.8  # two plots are shown side by side on a usual page
LONGEST_NAME = 54  # letters of a name in a legend
COLOURS: dict[Precision | None, str] = {
    "fp32": "#4c8dd6",
    "fp16": "#3fa77a",
    "int8": "#e8833a",
    None: "#a371d6",
}
MORE_COLOURS = ("#c4596b", "#8d8d3f", "#4aa6b5", "#b06fb0", "#7f8ea3", "#c79a3b")
RAMP = ("#a9cdee", "#86b6e2", "#649fd5", "#4a88c4", "#3f73b5", "#4560b0", "#5650a8", "#6c44a0")
MARKERS = ("o", "s", "^", "D")
_LOG_BEYOND = 25.0  # a linear axis hides small values if the largest is this many times the smallest
# Placeholders that are replaced by CSS variables, with their value in light and in dark.
_THEME = {
    "#010203": ("ink", "#1b1f24", "#e6e9ed"),
    "#040506": ("card", "#f6f7f9", "#1c2128"),
    "#070809": ("grid", "#d5d9df", "#3a424d"),
}
_INK, _CARD, _GRID = _THEME


@dataclass(frozen=True)
class Plot:
    """A plot: its file name without suffix, its title, how to read it, and the image."""

    name: str
    title: str
    note: str
    svg: str


@dataclass(frozen=True)
class Series:
    """One line. Points that are not `firm` (INVALID, or too few samples) are hollow and joined by dots."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    colour: str
    marker: str = ""
    firm: tuple[bool, ...] = ()  # empty: all are
    low: tuple[float | None, ...] = ()  # the ends of each point's whisker; empty: none has one
    high: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Bar:
    """A stacked bar: segments as (start, end, index of the legend), and a text after its end."""

    name: str
    segments: tuple[tuple[float, float, int], ...]
    text: str
    firm: bool = True


class Styles:
    """Give each line a colour by its precision, and a marker; no two lines look the same while they last."""

    def __init__(self) -> None:
        self._used: dict[Precision | None, int] = {}
        self._spare = 0

    def next_for(self, precision: Precision | None) -> tuple[str, str]:
        """Return colour and marker."""
        used = self._used.get(precision, 0)
        self._used[precision] = used + 1
        if used < len(MARKERS):
            return COLOURS[precision], MARKERS[used]
        self._spare += 1
        return MORE_COLOURS[self._spare % len(MORE_COLOURS)], MARKERS[self._spare // len(MORE_COLOURS) % 4]


def line_plot(
    name: str,
    title: str,
    note: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[tuple[float, str]] = (),
    limit: tuple[float, str] | None = None,
    y_percent: bool = False,
) -> Plot:
    """Draw lines through points.

    Args:
        name: The file name of the plot, without suffix.
        title: The title.
        note: How to read it, below the title.
        series: The lines, in the order of the legend.
        x_label: The name of the x axis with its unit.
        y_label: The name of the y axis with its unit.
        x_ticks: Positions and names on an x axis that is not numeric.
        limit: A horizontal line and its name.
        y_percent: Show the y axis in percent.
    """
    with _drawing(title, note, height_in=2, left_in=0.66, legend_rows=len(series)) as (figure, axes, image):
        from matplotlib.lines import Line2D

        for line in series:
            _draw_line(axes, line)
        heights = [y for line in series for y in (*line.y, *line.low, *line.high) if y is not None]
        if limit is not None:
            heights.append(limit[0])
            axes.axhline(limit[0], color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
            _write(axes, limit[1], (1, limit[0]), (0, 3), xycoords=("axes fraction", "data"), ha="right")
        _scale(axes, "y", heights, percent=y_percent)
        if x_ticks:
            axes.set_xticks([at for at, _ in x_ticks], [words for _, words in x_ticks])
        else:
            _scale(axes, "x", [x for line in series for x in line.x])
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        handles = [
            Line2D([], [], color=line.colour, marker=line.marker or None, markersize=4.5, linewidth=1.4)
            for line in series
        ]
        _legend(figure, handles, [cut(line.name, LONGEST_NAME) for line in series])
    return Plot(name, title, note, image[0])


def bar_plot(
    name: str,
    title: str,
    note: str,
    bars: Sequence[Bar],
    legend: Sequence[tuple[str, str]],
    *,
    x_label: str,
    x_percent: bool = False,
) -> Plot:
    """Draw stacked horizontal bars, the first one on top.

    Args:
        name: The file name of the plot, without suffix.
        title: The title.
        note: How to read it, below the title.
        bars: The bars.
        legend: Name and colour of each kind of segment.
        x_label: The name of the x axis with its unit.
        x_percent: Show the x axis in percent.
    """
    columns = 4 if all(len(words) <= 9 for words, _ in legend) else 2
    rows, height_in = math.ceil(len(legend) / columns), 0.15 + 0.36 * len(bars)
    with _drawing(title, note, height_in=height_in, left_in=0.12, legend_rows=rows) as (figure, axes, image):
        from matplotlib.patches import Patch

        for row, bar in enumerate(bars):
            for start, end, kind in bar.segments:
                width, colour = max(end - start, 0), legend[kind][1]
                axes.barh(row, width, 0.42, left=start, color=colour, alpha=1 if bar.firm else 0.45)
            end = max((segment[1] for segment in bar.segments), default=0.0)
            _write(axes, bar.text, (end, row), (4, 0), va="center")
            above = (0, row - 0.34)
            _write(axes, cut(bar.name, 60), above, (3, 0), xycoords=("axes fraction", "data"), va="bottom")
        longest = max((segment[1] for bar in bars for segment in bar.segments), default=1.0)
        _scale(axes, "x", [0.0, 1.0 if x_percent else longest], percent=x_percent)
        axes.set_xlim(0, (1.0 if x_percent else longest) * 1.22)
        axes.set_ylim(len(bars) - 0.5, -0.85)
        axes.set_yticks([])
        axes.set_xlabel(x_label)
        handles = [Patch(color=colour) for _, colour in legend]
        _legend(figure, handles, [cut(words, 30) for words, _ in legend], columns)
    return Plot(name, title, note, image[0])


def _write(axes: Axes, words: str, xy: tuple[float, float], offset: tuple[int, int], **style: Any) -> None:
    """Write a text at a place, moved by some points."""
    axes.annotate(_clean(words), xy, xytext=offset, textcoords="offset points", fontsize=7, **style)


def cut(words: str, longest: int) -> str:
    """Shorten a name in its middle, since names differ at their ends."""
    words = _clean(words)
    if len(words) <= longest:
        return words
    end = longest // 2
    return f"{words[: longest - 1 - end]}…{words[-end:]}"


def tick_text(value: float) -> str:
    """Return the short name of a tick: 15k, 1,500, 200, 0.05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= max(size, 1e4):
            return f"{value / size:g}{letter}"
    return f"{value:,g}"


@contextmanager
def _drawing(
    title: str, note: str, *, height_in: float, left_in: float, legend_rows: int
) -> Iterator[tuple[Figure, Axes, list[str]]]:
    """Give axes with title and note above and space for the legend below; write the SVG at the end."""
    with needs("bench"):
        import matplotlib as mpl
        from matplotlib.figure import Figure
    titles, notes = wrap(_clean(title), 58), wrap(_clean(note), 82)
    top_in = 0.26 + 0.17 * len(titles) + 0.13 * len(notes)
    bottom_in = 0.5 + 0.155 * legend_rows
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "alexnet",
        "text.parse_math": False,
        "font.size": 8,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
        ),
        "axes.facecolor": "none",
        "figure.facecolor": _CARD,
        "grid.color": _GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    image: list[str] = []
    with mpl.rc_context({**mpl.rcParamsDefault, **style}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the reader's browser has the letter
        whole_in = top_in + height_in + bottom_in
        figure = Figure((WIDTH_IN, whole_in))
        width_in = WIDTH_IN - left_in - 0.2
        box = (left_in / WIDTH_IN, bottom_in / whole_in, width_in / WIDTH_IN, height_in / whole_in)
        axes = figure.add_axes(box)
        axes.grid(visible=True, linewidth=0.6)
        axes.set_axisbelow(True)
        down_in = 0.1
        for lines, height, size, weight in ((titles, 0.17, 9, "bold"), (notes, 0.13, 7, "normal")):
            for line in lines:
                y = (whole_in - down_in) / whole_in
                figure.text(0.025, y, line, va="top", fontsize=size, fontweight=weight)
                down_in += height
            down_in += 0.02
        yield figure, axes, image
        written = StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    image.append(_themed(written.getvalue(), f"{title}. {note}"))


def _themed(svg: str, words: str) -> str:
    """Replace the placeholders by CSS variables with a value for light and dark; add a description."""
    light, dark = ("".join(f"--{names[0]}:{names[value]};" for names in _THEME.values()) for value in (1, 2))
    for placeholder, (variable, *_) in _THEME.items():
        svg = svg.replace(placeholder, f"var(--{variable})")
    style = f"<style>:root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}</style>"
    start = svg.index("<svg")
    end = svg.index(">", start)
    label = f' role="img" aria-label="{escape(_clean(words))}"'
    return f"{svg[start:end]}{label}>{style}{svg[end + 1 :]}"


def _draw_line(axes: Axes, line: Series) -> None:
    firm = line.firm or (True,) * len(line.x)
    for is_firm, steps in groupby(
        pairwise(range(len(line.x))), key=lambda step: firm[step[0]] and firm[step[1]]
    ):
        ends = [end for step in steps for end in step]
        part = slice(ends[0], ends[-1] + 1)
        axes.plot(
            line.x[part], line.y[part], color=line.colour, linewidth=1.4, linestyle="-" if is_firm else ":"
        )
    for index, (low, high) in enumerate(zip(line.low, line.high, strict=True)):
        if low is not None and high is not None:
            axes.plot([line.x[index]] * 2, [low, high], color=line.colour, linewidth=1, alpha=0.7)
    if line.marker:
        for x, y, is_firm in zip(line.x, line.y, firm, strict=True):
            face = line.colour if is_firm else _CARD
            axes.plot(x, y, line.marker, color=line.colour, markersize=4.5, markerfacecolor=face)


def _legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], columns: int = 1) -> None:
    if handles:
        figure.legend(
            handles, names, loc="lower left", ncols=columns, frameon=False, fontsize=7, labelspacing=0.3
        )


def _scale(axes: Axes, axis: str, values: Sequence[float], *, percent: bool = False) -> None:
    """From zero if that shows all values, logarithmic if it does not; with short tick names."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    found = [value for value in values if value > 0] or [1.0]
    of_axis = axes.xaxis if axis == "x" else axes.yaxis
    if max(found) / min(found) > _LOG_BEYOND:
        (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
        decades = math.log10(max(found) / min(found))
        of_axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
        of_axis.set_minor_locator(NullLocator())
    else:
        top = max(found) * 1.06
        (axes.set_xlim if axis == "x" else axes.set_ylim)(0, top)
        of_axis.set_major_locator(MaxNLocator(6))
    of_axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.0%}" if percent else tick_text(value))
    )


def _clean(words: str) -> str:
    """On one line, without letters that XML cannot hold; and no name is hidden from a legend."""
    words = "".join(letter if letter.isprintable() else " " for letter in words)
    words = " ".join(words.split())
    return f"\u200b{words}" if words.startswith("_") else words
