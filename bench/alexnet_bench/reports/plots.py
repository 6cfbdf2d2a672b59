"""From a report's rows to its plots. Every plot holds rows of one device: the caller has chosen them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from alexnet_model.records import Precision

from ..figures.percentiles import NEEDED
from ..schema import EngineRow, LatencyStep, LoadRow
from .distributions import distribution_of
from .drawing.alone import svg_alone
from .drawing.bars import Bar, Bars, Segment, drawing_from_bars, ramp
from .drawing.canvas import COLOURS, Drawing, Key, svg_from_drawing
from .drawing.lines import LONGEST_NAME, Lines, Point, Series, drawing_from_lines
from .names import in_short, load_in_words, name_of_series
from .table_models import mean_batch

# A precision has one colour on the whole page; what else differs is told apart by the marker.
_COLOURS: dict[Precision | None, str] = {"fp32": "c0", "fp16": "c2", "int8": "c1", None: "c3"}
_MARKERS = 4
_MOST_CURVES = 6
_CURVE_POINTS = 60
# The last size of each step of the key; the last step is open.
_BATCH_STEPS = (1, 2, 4, 8, 16, 32, 64)
Row = TypeVar("Row")
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Plot:
    """A plot, with what it is and how to read it. Its name tells it from the others of its report."""

    name: str
    title: str
    note: str
    drawing: Drawing

    @property
    def svg(self) -> str:
        """For a page that has the style of plots."""
        return svg_from_drawing(self.drawing)

    @property
    def svg_alone(self) -> str:
        """For a file of its own."""
        return svg_alone(self.title, self.note, self.drawing, style_of_plots())


def style_of_plots() -> str:
    """The CSS that every plot needs, with its colours in light and dark."""
    return Path(__file__).with_name("plots.css").read_text(encoding="utf-8")


def sweep_plot(rows: Sequence[EngineRow]) -> Plot:
    """Throughput by batch, a line an engine, the best first in the key."""
    series = _engine_series(
        rows,
        lambda row: Point(
            math.log2(row.batch),
            row.throughput.value,
            row.throughput.low,
            row.throughput.high,
            is_doubtful=not row.verdict.is_valid,
            says=f"{row.engine}, batch {row.batch}: {row.throughput}" + _if_invalid(row),
        ),
    )
    plot = Lines("Throughput by batch", "batch", "images/s", series, x_ticks=_batch_ticks(rows))
    note = f"Higher is better. Whiskers are 95% intervals.{_of_invalid(rows)}"
    return Plot("engine-ladder", plot.title, note, drawing_from_lines(plot))


def roof_plot(rows: Sequence[EngineRow]) -> Plot | None:
    """The share of the limit that each engine reaches; nothing where no limit is known."""
    limited = [row for row in rows if row.share_of_limit is not None]
    if not limited:
        return None
    series = _engine_series(
        limited,
        lambda row: Point(
            math.log2(row.batch),
            row.share_of_limit or 0.0,
            is_doubtful=not row.verdict.is_valid,
            says=f"{row.engine}, batch {row.batch}: {row.share_of_limit:.0%}, bound by {row.bound_by}"
            + _if_invalid(row),
        ),
    )
    plot = Lines(
        "Share of the limit",
        "batch",
        "of the roofline",
        series,
        x_ticks=_batch_ticks(limited),
        roof=(1.0, "the limit: no call can be shorter"),
        y_percent=True,
    )
    note = "The limit is the larger of compute and memory time in this run."
    return Plot("engine-roof", plot.title, note + _of_invalid(limited), drawing_from_lines(plot))


def latency_plots(rows: Sequence[LoadRow]) -> tuple[Plot, ...]:
    """Latency against throughput, a plot for each loop and batch, a curve a model."""
    images = []
    for (loop, batch), group in _grouped(rows, lambda row: (row.loop, row.batch)).items():
        styles = _Styles()
        series = []
        for name, sweep in _grouped(group, name_of_series).items():
            points = tuple(point for row in _by_load(sweep) if (point := _load_point(row)) is not None)
            colour, marker = styles.next_for(sweep[0].engine.precision)
            if points:
                series.append(Series(name.partition(f", {loop} loop")[0], points, colour, marker))
        if series:
            title = f"Latency against throughput: {loop} loop, batch {batch}"
            plot = Lines(title, "images/s", "ms, median and up to p99", tuple(series))
            note = "Right and down is better. Whiskers reach p99 where known; hollow and dotted is INVALID."
            name = f"latency {loop} loop batch {batch}"
            images.append(Plot(name, title, note, drawing_from_lines(plot)))
    return tuple(images)


def percentile_plots(rows: Sequence[LoadRow]) -> tuple[Plot, ...]:
    """HdrHistogram's plot of the tail, for each sweep a plot, a curve a load.

    Raises:
        ReportError: a histogram is broken.
    """
    images = []
    for name, sweep in _grouped(rows, name_of_series).items():
        chosen = _evenly(_by_load(sweep), _MOST_CURVES)
        curves = [_curve(row, ramp(index, len(chosen))) for index, row in enumerate(chosen)]
        series = tuple(curve for curve in curves if curve.points)
        if series:
            ticks = [(-math.log10(0.5), "50%")]
            furthest = max(curve.points[-1].x for curve in series)
            ticks += [(float(nines), _share(nines)) for nines in range(1, 7) if nines <= furthest]
            plot = Lines(name, "share of requests", "ms", series, x_ticks=tuple(ticks))
            note = "Dotted where there are too few samples to know it"
            note += "." if all(row.verdict.is_valid for row in chosen) else ", and where it is INVALID."
            images.append(Plot(f"tail {name}", name, note, drawing_from_lines(plot)))
    return tuple(images)


def batch_plots(rows: Sequence[LoadRow]) -> tuple[Plot, ...]:
    """Which batches the server executed, for each sweep a plot, a bar a load."""
    images = []
    counted = [row for row in rows if row.executions_by_batch]
    for name, of_series in _grouped(counted, name_of_series).items():
        sweep = _by_load(of_series)
        bars = tuple(_batch_bar(row) for row in sweep)
        last = max(_step_of(batch) for row in sweep for batch in row.executions_by_batch)
        key = tuple(Key(_step_name(step), f"r{step}") for step in range(last + 1))
        plot = Bars(name, "of executions, by batch", bars, key, x_percent=True)
        ends = dict.fromkeys(
            f"{load_in_words(row)}: {row.batching.rstrip('.')}." for row in (sweep[0], sweep[-1])
        )
        images.append(Plot(f"batches {name}", name, " ".join(ends), drawing_from_bars(plot)))
    return tuple(images)


def breakdown_plot(breakdown: Sequence[LatencyStep]) -> Plot | None:
    """Where the time goes, a bar for each way that an image takes."""
    if not breakdown:
        return None
    names = list(dict.fromkeys(step.name for step in breakdown))
    colours = {name: f"c{index % COLOURS}" for index, name in enumerate(names)}
    bars = []
    for of, group in _grouped(breakdown, lambda step: step.of).items():
        ways = _ways(group)
        for way in ways:
            top = way[-1]
            segments = tuple(
                Segment(
                    step.total_ms - step.added_ms,
                    step.total_ms,
                    colours[step.name],
                    f"{step.name}: adds {in_short(step.added_ms)} ms ({step.source})",
                )
                for step in way
            )
            name = f"{of}, {top.name}" if len(ways) > 1 else of
            name += f": {top.request_bytes:,} bytes"
            bars.append(Bar(name, segments, f"{in_short(top.total_ms)} ms"))
    plot = Bars(
        "Where the time goes",
        "ms, median",
        tuple(bars),
        tuple(Key(name, colour) for name, colour in colours.items()),
    )
    note = "From the engine alone to an image over the wire, one request at a time, with the bytes it sends."
    return Plot("breakdown", plot.title, note, drawing_from_bars(plot))


class _Styles:
    """A colour and a marker for each line, no two alike while they last."""

    def __init__(self) -> None:
        self._used: dict[Precision | None, int] = {}
        self._spare = 0

    def next_for(self, precision: Precision | None) -> tuple[str, int]:
        used = self._used.get(precision, 0)
        self._used[precision] = used + 1
        if used < _MARKERS:
            return _COLOURS[precision], used
        self._spare += 1
        return f"c{4 + self._spare % 4}", self._spare // 4


def _engine_series(rows: Sequence[EngineRow], point: Callable[[EngineRow], Point]) -> tuple[Series, ...]:
    styles = _Styles()
    series = []
    has_room = all(len(str(row.engine)) <= LONGEST_NAME for row in rows)
    for name, group in _grouped(rows, lambda row: str(row.engine)).items():
        ordered = sorted(group, key=lambda row: row.batch)
        engine = group[0].engine
        colour, marker = styles.next_for(engine.precision)
        # All of a plot are on one device.
        short = name if has_room else name.replace(f"({engine.device}, ", "(", 1)
        series.append(Series(short, tuple(point(row) for row in ordered), colour, marker))
    return tuple(sorted(series, key=lambda line: -max(point.y for point in line.points)))


def _if_invalid(row: EngineRow) -> str:
    return "" if row.verdict.is_valid else f", {row.verdict.word}"


def _of_invalid(rows: Sequence[EngineRow]) -> str:
    return "" if all(row.verdict.is_valid for row in rows) else " Hollow is INVALID."


def _batch_ticks(rows: Sequence[EngineRow]) -> tuple[tuple[float, str], ...]:
    return tuple((math.log2(batch), str(batch)) for batch in sorted({row.batch for row in rows}))


def _by_load(sweep: Sequence[LoadRow]) -> list[LoadRow]:
    """From the least on: a file has them in the order in which they were measured."""
    return sorted(sweep, key=lambda row: (row.concurrency or 0, row.rate_per_s or 0.0))


def _load_point(row: LoadRow) -> Point | None:
    latencies = row.latencies
    if latencies.p50_ms is None:
        return None
    tail = "p99 refused" if latencies.p99_ms is None else f"p99 {in_short(latencies.p99_ms)} ms"
    return Point(
        row.throughput.value,
        latencies.p50_ms,
        latencies.p50_ms,
        latencies.p99_ms,
        is_doubtful=not row.verdict.is_valid,
        says=f"{load_in_words(row)}: {row.throughput}, p50 {in_short(latencies.p50_ms)} ms, {tail}, "
        f"{row.verdict.word}",
    )


def _curve(row: LoadRow, colour: str) -> Series:
    """Even steps in the logarithm of what is left, up to the slowest sample."""
    distribution = distribution_of(row)
    name = load_in_words(row) + ("" if row.verdict.is_valid else ", INVALID")
    if not distribution.samples:
        return Series(name, (), colour, None)
    nines = np.linspace(0, math.log10(max(distribution.samples, 2)), _CURVE_POINTS)
    latencies = distribution.at(1 - 10.0**-nines)
    known = [name for name, needed in NEEDED.items() if distribution.samples >= needed]
    last = float(known[-1][1:]) / 100 if known else 0.0
    believed = int(np.searchsorted(nines, -math.log10(1 - last) + 1e-9))
    is_doubtful = not row.verdict.is_valid
    points = tuple(
        Point(float(x), float(y), is_doubtful=is_doubtful) for x, y in zip(nines, latencies, strict=True)
    )
    return Series(name, points, colour, None, believed=believed)


def _batch_bar(row: LoadRow) -> Bar:
    total = sum(row.executions_by_batch.values())
    segments, reached = [], 0
    by_step: dict[int, int] = {}
    for batch, count in row.executions_by_batch.items():
        by_step[_step_of(batch)] = by_step.get(_step_of(batch), 0) + count
    for step, count in sorted(by_step.items()):
        says = f"batch {_step_name(step)}: {count:,} executions, {count / total:.0%}"
        segments.append(Segment(reached / total, (reached + count) / total, f"r{step}", says))
        reached += count
    mean = in_short(mean_batch(row.executions_by_batch) or 0.0)
    return Bar(load_in_words(row), tuple(segments), f"mean {mean}", is_doubtful=not row.verdict.is_valid)


def _step_of(batch: int) -> int:
    return sum(batch > last for last in _BATCH_STEPS)


def _step_name(step: int) -> str:
    if step < 2:
        return str(_BATCH_STEPS[step])
    low = _BATCH_STEPS[step - 1] + 1
    return f"{low} to {_BATCH_STEPS[step]}" if step < len(_BATCH_STEPS) else f"{low} on"


def _ways(breakdown: Sequence[LatencyStep]) -> list[list[LatencyStep]]:
    """Each way from the bottom to a rung that nothing stands on."""
    below: list[int] = []  # the index of the rung that each stands on, -1 for the ground
    for step in breakdown:
        base = step.total_ms - step.added_ms
        heights = [0.0, *(other.total_ms for other in breakdown[: len(below)])]
        below.append(min(range(len(heights)), key=lambda index: (abs(heights[index] - base), -index)) - 1)
    ways = []
    for top in (index for index in range(len(breakdown)) if index not in below):
        way = [top]
        while below[way[0]] >= 0:
            way.insert(0, below[way[0]])
        ways.append([breakdown[index] for index in way])
    return ways


def _share(nines: int) -> str:
    return f"{100 * (1 - 10.0**-nines):.{max(nines - 2, 0)}f}%"


def _evenly(rows: Sequence[Row], most: int) -> list[Row]:
    """The first, the last, and even steps between."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(index * (len(rows) - 1) / (most - 1))] for index in range(most)]


def _grouped(rows: Iterable[Row], name: Callable[[Row], Name]) -> dict[Name, list[Row]]:
    groups: dict[Name, list[Row]] = {}
    for row in rows:
        groups.setdefault(name(row), []).append(row)
    return groups
