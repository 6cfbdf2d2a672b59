"""Latency breakdown: what each step from the engine to the encoded image adds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alexnet_model.records import Precision

from ...figures.verdicts import Verdict
from ...schema import LatencyStep, Report
from ..comparison_rows import ComparisonRow, time_of
from ..names import in_short
from ..plots import COLOURS, MORE_COLOURS, Bar, Plot, bar_plot
from ..table_models import Column, Table, figure_cell, table_from_items
from .part import Part

_SLOW: Precision = "fp32"
_FAST: Precision = "int8"
_ENGINE = "engine"


def _table(steps: Sequence[LatencyStep], _: Verdict) -> Table:
    columns: list[Column[LatencyStep]] = [
        Column("step", lambda step: step.name, brief=True, left=True),
        Column("adds", lambda step: step.added_ms, "ms", brief=True),
        Column("up to here", lambda step: figure_cell(step.total), "ms, median", brief=True),
        Column("sent", lambda step: f"{step.request_bytes:,}", "bytes/request", brief=True),
        Column("known from", lambda step: step.source, brief=True, left=True),
    ]
    items = ((f"{step.of}: {step.engine}", [step]) for step in steps)
    return table_from_items(BREAKDOWN.title, columns, items)


def _plots(steps: Sequence[LatencyStep]) -> Iterator[Plot]:
    """One bar for each way from the engine to an image."""
    names = list(dict.fromkeys(step.name for step in steps))
    colours = (*(colour for colour in COLOURS.values()), *MORE_COLOURS)
    bars = []
    for of in dict.fromkeys(step.of for step in steps):
        ways = _ways([step for step in steps if step.of == of])
        for way in ways:
            top = way[-1]
            name = f"{of}, {top.name}" if len(ways) > 1 else of
            segments = tuple(
                (step.total_ms - step.added_ms, step.total_ms, names.index(step.name)) for step in way
            )
            bars.append(Bar(f"{name}: {top.request_bytes:,} bytes", segments, f"{in_short(top.total_ms)} ms"))
    yield bar_plot(
        "breakdown",
        "Where the time goes",
        "From the engine alone to an image over the network, one request at a time, with the bytes sent.",
        bars,
        [(name, colours[index % len(colours)]) for index, name in enumerate(names)],
        x_label="ms, median",
    )


def _ways(steps: Sequence[LatencyStep]) -> list[list[LatencyStep]]:
    """Follow each step that no other one builds on down to the engine."""
    below: list[int] = []  # the index of the step that each one builds on; -1 for none
    for step in steps:
        base = step.total_ms - step.added_ms
        heights = [0.0, *(other.total_ms for other in steps[: len(below)])]
        below.append(min(range(len(heights)), key=lambda index: (abs(heights[index] - base), -index)) - 1)
    ways = []
    for top in (index for index in range(len(steps)) if index not in below):
        way = [top]
        while below[way[0]] >= 0:
            way.insert(0, below[way[0]])
        ways.append([steps[index] for index in way])
    return ways


def _sentences(steps: Sequence[LatencyStep]) -> Iterator[str]:
    """Say what INT8 gains in the engine and at the client, for each load measured in FP32 and INT8."""
    by_load: dict[str, dict[Precision | None, dict[str, LatencyStep]]] = {}
    for step in steps:
        load = step.of.partition(", ")[2]  # without the precision
        by_load.setdefault(load, {}).setdefault(step.engine.precision, {})[step.name] = step
    for load, found in by_load.items():
        slow, fast = found.get(_SLOW, {}), found.get(_FAST, {})
        gains = [
            f"{slow[name].total_ms / step.total_ms:.2f} ({name})"
            for name, step in fast.items()
            if name in slow and step.source == "client"
        ]
        if gains and _ENGINE in slow and _ENGINE in fast:
            before_ms, after_ms = slow[_ENGINE].total_ms, fast[_ENGINE].total_ms
            yield (
                f"At {load} the INT8 engine is {before_ms / after_ms:.2f} times as fast as FP32 "
                f"({in_short(after_ms)} ms against {in_short(before_ms)} ms). "
                f"A client sees {', '.join(gains)} times as fast: all between costs both the same."
            )


def _comparison_rows(report: Report) -> Iterator[ComparisonRow]:
    """Judge each step by its total time."""
    for step in report.breakdown:
        yield ComparisonRow(
            group=f"latency breakdown of {step.of}: {step.engine}",
            name=step.name,
            measure=time_of(step.total),
        )


BREAKDOWN: Part[LatencyStep] = Part(
    name="breakdown",
    title="From the engine to the image",
    table=_table,
    plots=_plots,
    sentences=_sentences,
    comparison_rows=_comparison_rows,
)
