"""Bars that lie, each of segments that stand behind one another. A bar's name is above it: names are long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .canvas import WIDTH, Drawing, Key, cut, key_rows, rule, text
from .scales import Scale, linear_scale, tick_text

_LEFT, _RIGHT = 8.0, WIDTH - 100.0  # beyond it stands each bar's figure
_ROW, _THICK = 40.0, 16.0
_LONGEST_NAME = 52


@dataclass(frozen=True)
class Segment:
    """From `start` to `end`, in the axis' unit."""

    start: float
    end: float
    colour: str
    says: str


@dataclass(frozen=True)
class Bar:
    """`figure` stands after its end. A doubtful one is paler."""

    name: str
    segments: tuple[Segment, ...]
    figure: str
    is_doubtful: bool = False


@dataclass(frozen=True)
class Bars:
    """A plot."""

    title: str
    x_name: str
    bars: tuple[Bar, ...]
    key: tuple[Key, ...]
    x_percent: bool = False


def drawing_from_bars(plot: Bars) -> Drawing:
    """The image, with its key above, where it is read first."""
    parts, top = key_rows(plot.key, 12)
    longest = max((segment.end for bar in plot.bars for segment in bar.segments), default=0.0)
    scale = linear_scale(1.0 if plot.x_percent else longest or 1.0)
    bottom = top + len(plot.bars) * _ROW + 6
    parts += _frame(plot, scale, top, bottom)
    for index, bar in enumerate(plot.bars):
        parts += _drawn(bar, scale, top + index * _ROW)
    explained = "; ".join(f"{bar.name}: {bar.figure}" for bar in plot.bars)
    words = f"{plot.title}. {explained}. The figures are in the table."
    return Drawing(words, tuple(parts), bottom + 42)


def _frame(plot: Bars, scale: Scale, top: float, bottom: float) -> list[str]:
    parts = []
    for tick in scale.ticks:
        x = _x(scale, tick)
        anchor = "middle" if tick else "start"  # the first one has no room on its left
        name = f"{tick:.0%}" if plot.x_percent else tick_text(tick)
        parts += [rule(x, top, x, bottom, "grid"), text(x, bottom + 16, name, anchor=anchor, kind="tick")]
    parts.append(text(_RIGHT, bottom + 35, plot.x_name, anchor="end", kind="axis"))
    return parts


def _drawn(bar: Bar, scale: Scale, top: float) -> list[str]:
    y = top + 18
    parts = [
        text(_LEFT, top + 13, cut(bar.name, _LONGEST_NAME), kind="barname"),
        f'<g class="{"doubtful" if bar.is_doubtful else "sure"}">',
    ]
    end = _LEFT
    for segment in bar.segments:
        start, end = _x(scale, segment.start), max(_x(scale, segment.end), end)
        width = max(_x(scale, segment.end) - start, 0)
        parts.append(
            f'<rect x="{start:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_THICK}" '
            f'class="{segment.colour} segment"><title>{escape(segment.says)}</title></rect>'
        )
    return [*parts, "</g>", text(end + 6, y + 12, bar.figure, kind="tick")]


def _x(scale: Scale, value: float) -> float:
    return _LEFT + scale.share(value) * (_RIGHT - _LEFT)


def ramp(index: int, count: int, colours: int = 8) -> str:
    """The colour of one of `count` steps in order, pale to strong."""
    if count <= 1:
        return f"r{colours - 2}"
    return f"r{round(1 + index * (colours - 2) / (count - 1))}"


def in_order(steps: Sequence[str]) -> tuple[Key, ...]:
    """A key of steps in order."""
    return tuple(Key(step, ramp(index, len(steps))) for index, step in enumerate(steps))
