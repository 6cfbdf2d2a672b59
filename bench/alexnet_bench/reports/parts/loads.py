"""A server under load: throughput, latencies, executed batches, and the highest rate within a limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from ...figures.percentiles import NEEDED
from ...figures.verdicts import Verdict
from ...schema import HeldRate, LoadRow, RateProbe, Report
from ..comparison_rows import ComparisonRow, held_rate, latency, throughput
from ..distributions import checked_distribution_of, distribution_of
from ..names import in_short, load_in_words, name_of_load, name_of_series
from ..plots import RAMP, Bar, Plot, Series, Styles, bar_plot, line_plot
from ..table_models import (
    Cell,
    Column,
    Table,
    figure_cell,
    latency_columns,
    table_from_items,
    verdict_cell,
    yes_cell,
)
from .part import Highlight, Part, best_throughput, on_other_device

_MOST_CURVES = 6
_CURVE_POINTS = 60
_BATCH_STEPS = (1, 2, 4, 8, 16, 32, 64)  # the last size of each step of the legend; the last step is open
Name = TypeVar("Name")


def _table(rows: Sequence[LoadRow], run: Verdict) -> Table:
    columns: list[Column[LoadRow]] = [
        Column("load", load_in_words, brief=True, left=True),
        Column("verdict", lambda row: verdict_cell(row.verdict, run), brief=True, left=True),
        Column("throughput", lambda row: figure_cell(row.throughput), "images/s", brief=True),
        *latency_columns(),
        Column("requests", lambda row: f"{row.requests:,}"),
        Column("failed", _failed, detail=True),
        Column("sent late", lambda row: row.late_p99_ms, "ms, p99", detail=True),
        Column("client", lambda row: f"{row.client_cpu_share:.0%}", "of a core"),
        Column("sent", lambda row: f"{row.request_bytes:,}", "bytes/request"),
        Column("batch", lambda row: mean_batch(row.executions_by_batch), "mean", brief=True),
    ]
    items = ((f"{name_of_series(row)}: {row.engine}", [row]) for row in rows)
    return table_from_items(LOADS.title, columns, items, lambda row: row.verdict.reasons)


def _failed(row: LoadRow) -> Cell:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in row.failed_by_kind.items())
    return Cell(f"{row.failed:,}", kinds, "bad" if row.failed else "plain")


def mean_batch(executions_by_batch: dict[int, int]) -> float | None:
    """Return the mean number of images per execution; None if the server counted no execution."""
    executions = sum(executions_by_batch.values())
    if not executions:
        return None
    return sum(batch * count for batch, count in executions_by_batch.items()) / executions


def _plots(rows: Sequence[LoadRow]) -> Iterator[Plot]:
    """Latency against throughput, the tail of the latencies, and the executed batches."""
    yield from _latency_plots(rows)
    yield from _tail_plots(rows)
    yield from _batch_plots(rows)


def _latency_plots(rows: Sequence[LoadRow]) -> Iterator[Plot]:
    """One plot for each loop and batch, one curve for each model."""
    for (loop, batch), group in _by(rows, lambda row: (row.loop, row.batch)).items():
        styles = Styles()
        series = []
        for name, sweep in _by(group, name_of_series).items():
            known = [row for row in _by_load(sweep) if row.latencies.p50_ms is not None]
            colour, marker = styles.next_for(sweep[0].engine.precision)
            if known:
                medians = tuple(row.latencies.p50_ms or 0.0 for row in known)
                series.append(
                    Series(
                        name.partition(f", {loop} loop")[0],
                        x=tuple(row.throughput.value for row in known),
                        y=medians,
                        colour=colour,
                        marker=marker,
                        firm=tuple(row.verdict.is_valid for row in known),
                        low=medians,
                        high=tuple(row.latencies.p99_ms for row in known),
                    )
                )
        if series:
            yield line_plot(
                f"latency {loop} loop batch {batch}",
                f"Latency against throughput: {loop} loop, batch {batch}",
                "Right and down is better. Whiskers reach p99 if it is known; hollow and dotted is INVALID.",
                series,
                x_label="images/s",
                y_label="ms, median and up to p99",
            )


def _tail_plots(rows: Sequence[LoadRow]) -> Iterator[Plot]:
    """The latencies by percentile: one plot for each sweep, one curve for each load."""
    for name, sweep in _by(rows, name_of_series).items():
        loads = _by_load(sweep)
        steps = min(len(loads), _MOST_CURVES)
        chosen = [loads[round(step * (len(loads) - 1) / max(steps - 1, 1))] for step in range(steps)]
        curves = [_curve(row, index, len(chosen)) for index, row in enumerate(chosen)]
        series = [curve for curve in curves if curve.x]
        if series:
            ticks = [(-math.log10(0.5), "50%")]
            furthest = max(curve.x[-1] for curve in series)
            ticks += [(float(nines), _share(nines)) for nines in range(1, 7) if nines <= furthest]
            invalid = "" if all(row.verdict.is_valid for row in chosen) else ", and where it is INVALID"
            yield line_plot(
                f"tail {name}",
                f"Latencies by percentile: {name}",
                f"Dotted where there are too few samples to know it{invalid}.",
                series,
                x_label="share of requests",
                y_label="ms",
                x_ticks=ticks,
            )


def _curve(row: LoadRow, index: int, count: int) -> Series:
    """Even steps in the logarithm of what is left, up to the slowest sample."""
    distribution = distribution_of(row)
    name = load_in_words(row) + ("" if row.verdict.is_valid else ", INVALID")
    colour = RAMP[round(1 + index * (len(RAMP) - 2) / max(count - 1, 1))]
    if not distribution.samples:
        return Series(name, (), (), colour)
    nines = np.linspace(0, math.log10(max(distribution.samples, 2)), _CURVE_POINTS)
    latencies = distribution.at(1 - 10.0**-nines)
    known = [float(percentile[1:]) / 100 for percentile, n in NEEDED.items() if distribution.samples >= n]
    last = -math.log10(1 - max(known, default=0.0)) + 1e-9
    firm = tuple(bool(x <= last) and row.verdict.is_valid for x in nines)
    return Series(name, tuple(nines.tolist()), tuple(latencies.tolist()), colour, firm=firm)


def _batch_plots(rows: Sequence[LoadRow]) -> Iterator[Plot]:
    """Which batches the server executed: one plot for each sweep, one bar for each load."""
    counted = [row for row in rows if row.executions_by_batch]
    for name, of_series in _by(counted, name_of_series).items():
        sweep = _by_load(of_series)
        last = max(_step_of(batch) for row in sweep for batch in row.executions_by_batch)
        ends = dict.fromkeys(
            f"{load_in_words(row)}: {row.batching.rstrip('.')}." for row in (sweep[0], sweep[-1])
        )
        yield bar_plot(
            f"batches {name}",
            f"Executed batches: {name}",
            " ".join(ends),
            [_batch_bar(row) for row in sweep],
            [(_step_name(step), RAMP[step]) for step in range(last + 1)],
            x_label="of executions, by batch",
            x_percent=True,
        )


def _batch_bar(row: LoadRow) -> Bar:
    total = sum(row.executions_by_batch.values())
    by_step: dict[int, int] = {}
    for batch, count in row.executions_by_batch.items():
        by_step[_step_of(batch)] = by_step.get(_step_of(batch), 0) + count
    segments, reached = [], 0
    for step, count in sorted(by_step.items()):
        segments.append((reached / total, (reached + count) / total, step))
        reached += count
    mean = in_short(mean_batch(row.executions_by_batch) or 0.0)
    return Bar(load_in_words(row), tuple(segments), f"mean {mean}", row.verdict.is_valid)


def _step_of(batch: int) -> int:
    return sum(batch > last for last in _BATCH_STEPS)


def _step_name(step: int) -> str:
    if step < 2:
        return str(_BATCH_STEPS[step])
    low = _BATCH_STEPS[step - 1] + 1
    return f"{low} to {_BATCH_STEPS[step]}" if step < len(_BATCH_STEPS) else f"{low} or more"


def _share(nines: int) -> str:
    return f"{100 * (1 - 10.0**-nines):.{max(nines - 2, 0)}f}%"


def _by_load(sweep: Sequence[LoadRow]) -> list[LoadRow]:
    """From the lowest load up: a file has them in the order in which they were measured."""
    return sorted(sweep, key=lambda row: (row.concurrency or 0, row.rate_per_s or 0.0))


def _by(rows: Sequence[LoadRow], name: Callable[[LoadRow], Name]) -> dict[Name, list[LoadRow]]:
    groups: dict[Name, list[LoadRow]] = {}
    for row in rows:
        groups.setdefault(name(row), []).append(row)
    return groups


def _highlights(rows: Sequence[LoadRow]) -> Iterator[Highlight]:
    best, figure, interval = best_throughput(rows)
    of = f"{best.model} over {best.url_scheme}, batch {best.batch}, {load_in_words(best)}"
    yield Highlight(f"Fastest served{on_other_device(best.engine.device)}", figure, f"{interval}{of}")


def _comparison_rows(report: Report) -> Iterator[ComparisonRow]:
    """Judge closed loops by throughput, open loops by their median latency, and both by p99.

    The throughput of an open loop is what was planned. The load at which a search ended is left out: it is at
    another rate each time, and the search has its own row.
    """
    ended = {(held.model, held.url_scheme, held.batch, held.rate_per_s) for held in report.held_rates}
    for row in report.loads:
        if row.loop == "open" and (row.model, row.url_scheme, row.batch, row.rate_per_s) in ended:
            continue
        distribution = checked_distribution_of(row)
        has_tail = row.latencies.p99_ms is not None
        yield ComparisonRow(
            group=f"{name_of_series(row)}: {row.engine}",
            name=load_in_words(row),
            measure=latency(distribution, "median latency", 0.5)
            if row.loop == "open"
            else throughput(row.throughput),
            tail=latency(distribution, "p99 latency", 0.99) if has_tail else None,
            p99_ms=row.latencies.p99_ms,
            verdict=row.verdict,
        )


def _held_table(rows: Sequence[HeldRate], _: Verdict) -> Table:
    columns: list[Column[RateProbe]] = [
        Column("rate", lambda probe: probe.rate_per_s, "requests/s", brief=True),
        Column("p99", lambda probe: probe.p99_ms, "ms", brief=True),
        Column("held", lambda probe: yes_cell(probe.held, Cell("no")), brief=True, left=True),
        Column("note", lambda probe: probe.note, brief=True, left=True),
    ]
    items = (
        (
            f"{row.model} over {row.url_scheme}, batch {row.batch}: {row.engine}. "
            f"p99 within {in_short(row.limit_p99_ms)} ms: {row.words}",
            row.probes,
        )
        for row in rows
    )
    return table_from_items(HELD_RATES.title, columns, items)


def _held_highlights(rows: Sequence[HeldRate]) -> Iterator[Highlight]:
    for row in rows:
        yield Highlight(
            f"Held within a p99 of {in_short(row.limit_p99_ms)} ms",
            "nothing" if row.throughput is None else f"{in_short(row.throughput.value)} images/s",
            f"{row.model} over {row.url_scheme}, batch {row.batch}, open loop, on {row.engine.device}",
        )


def _held_comparison_rows(report: Report) -> Iterator[ComparisonRow]:
    """Judge a search by its rate. A search that found nothing has no row, so that an earlier one is gone."""
    for row in report.held_rates:
        if row.rate_per_s is not None:
            yield ComparisonRow(
                group=f"{row.model} over {row.url_scheme}, searched, batch {row.batch}: {row.engine}",
                name=f"p99 within {row.limit_p99_ms:g} ms",
                measure=held_rate(row.rate_per_s * row.batch),
                p99_ms=row.p99_ms,
            )


LOADS: Part[LoadRow] = Part(
    name="loads",
    title="Server under load",
    table=_table,
    plots=_plots,
    highlights=_highlights,
    comparison_rows=_comparison_rows,
    row_name=name_of_load,
)
HELD_RATES: Part[HeldRate] = Part(
    name="held_rates",
    title="Highest rate within a limit",
    table=_held_table,
    highlights=_held_highlights,
    comparison_rows=_held_comparison_rows,
)
