"""Lines through points, one a series, with the interval of each point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from .canvas import WIDTH, Drawing, Key, cut, key_rows, marker, rule, text
from .scales import Scale, scale_for, tick_text

_LEFT, _RIGHT, _TOP, _HEIGHT = 50.0, WIDTH - 20.0, 28.0, 230.0
_BELOW = 44.0  # the names of the ticks and of the axis
LONGEST_NAME = 54  # letters, in the key
_HALF_LETTER = 4.8  # of the largest text that the page sets


@dataclass(frozen=True)
class Point:
    """`low` and `high` are a whisker's ends. A doubtful one is hollow, and joined by dots."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    is_doubtful: bool = False
    says: str = ""


@dataclass(frozen=True)
class Series:
    """`believed` points come first; what is after them is dotted. Without a marker, a plain line."""

    name: str
    points: tuple[Point, ...]
    colour: str
    marker: int | None = 0
    believed: int | None = None


@dataclass(frozen=True)
class Lines:
    """A plot. `x_ticks` names places on an x axis that is not in figures; `roof` is a line across."""

    title: str
    x_name: str
    y_name: str
    series: tuple[Series, ...]
    x_ticks: tuple[tuple[float, str], ...] = ()
    roof: tuple[float, str] | None = None
    y_percent: bool = False


def drawing_from_lines(plot: Lines) -> Drawing:
    """The image, with its key below."""
    x_scale, x_names = _x_axis(plot)
    heights = [
        y for series in plot.series for p in series.points for y in (p.y, p.low, p.high) if y is not None
    ]
    y_scale = scale_for([*heights, plot.roof[0]]) if plot.roof else scale_for(heights)
    place = _Place(x_scale, y_scale)
    parts = _frame(plot, place, x_names)
    for series in plot.series:
        parts.append(f'<g class="{series.colour}">{_drawn(series, place)}</g>')
    entries = [Key(cut(series.name, LONGEST_NAME), series.colour, series.marker) for series in plot.series]
    key, end = key_rows(entries, _TOP + _HEIGHT + _BELOW + 14)
    explained = f"{plot.y_name} by {plot.x_name}: {'; '.join(series.name for series in plot.series)}."
    words = f"{plot.title}. {explained} The figures are in the table."
    return Drawing(words, (*parts, *key), end)


@dataclass(frozen=True)
class _Place:
    x_scale: Scale
    y_scale: Scale

    def x(self, value: float) -> float:
        return _LEFT + self.x_scale.share(value) * (_RIGHT - _LEFT)

    def y(self, value: float) -> float:
        return _TOP + (1 - self.y_scale.share(value)) * _HEIGHT


def _x_axis(plot: Lines) -> tuple[Scale, Sequence[tuple[float, str]]]:
    if plot.x_ticks:
        places = [place for place, _ in plot.x_ticks]
        places += [point.x for series in plot.series for point in series.points]
        low, high = min(places), max(places)
        return Scale(low, high if high > low else low + 1, False, ()), plot.x_ticks
    scale = scale_for(point.x for series in plot.series for point in series.points)
    return scale, [(tick, tick_text(tick)) for tick in scale.ticks]


def _frame(plot: Lines, place: _Place, x_names: Sequence[tuple[float, str]]) -> list[str]:
    bottom = _TOP + _HEIGHT
    parts = [text(_LEFT, 14, plot.y_name + _of_scale(place.y_scale), kind="axis")]
    for tick in place.y_scale.ticks:
        y = place.y(tick)
        name = f"{tick:.0%}" if plot.y_percent else tick_text(tick)
        parts += [rule(_LEFT, y, _RIGHT, y, "grid"), text(_LEFT - 7, y + 4, name, anchor="end", kind="tick")]
    for tick, name in x_names:
        x = place.x(tick)
        # Half of a long name has no room beyond the last tick.
        anchor, at = ("end", WIDTH) if x + _HALF_LETTER * len(name) > WIDTH else ("middle", x)
        parts += [
            rule(x, bottom, x, bottom + 5, "ink"),
            text(at, bottom + 18, name, anchor=anchor, kind="tick"),
        ]
    parts.append(rule(_LEFT, bottom, _RIGHT, bottom, "ink"))
    x_name = plot.x_name + ("" if plot.x_ticks else _of_scale(place.x_scale))
    parts.append(text(_RIGHT, bottom + 36, x_name, anchor="end", kind="axis"))
    if plot.roof:
        y = place.y(plot.roof[0])
        parts += [
            rule(_LEFT, y, _RIGHT, y, "roof"),
            text(_RIGHT, y - 5, plot.roof[1], anchor="end", kind="tick"),
        ]
    return parts


def _drawn(series: Series, place: _Place) -> str:
    at = [(place.x(point.x), place.y(point.y)) for point in series.points]
    believed = len(at) if series.believed is None else series.believed
    is_firm = [index < believed and not point.is_doubtful for index, point in enumerate(series.points)]
    parts = []
    for firm, steps in groupby(pairwise(range(len(at))), key=lambda step: all(is_firm[end] for end in step)):
        ends = [end for step in steps for end in step]
        parts.append(_path(at[ends[0] : ends[-1] + 1], "line" if firm else "line dotted"))
    for point, (x, y) in zip(series.points, at, strict=True):
        if point.low is not None and point.high is not None:
            parts.append(rule(x, place.y(point.low), x, place.y(point.high), "whisker"))
        if series.marker is not None:
            parts.append(marker(x, y, series.marker, hollow=point.is_doubtful, says=point.says))
    return "".join(parts)


def _path(at: Sequence[tuple[float, float]], kind: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    return f'<polyline points="{points}" class="{kind}"/>'


def _of_scale(scale: Scale) -> str:
    return ", log scale" if scale.is_log else ""
