"""What of a report is held against another's: rows by name, each with the figures that it is judged by.

An engine and a closed loop are judged by throughput, an open loop, whose throughput is what it was told to
be, by the median latency, and both loops by their p99 as well; latency breakdowns and cold starts
by their milliseconds;
a search, tuning's too, by the rate that it found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..figures.intervals import CONFIDENCE, Figure, ends_of_ratio
from ..figures.verdicts import Verdict
from ..schema import ColdStart, EngineLabel, EngineRow, HeldRate, LatencyStep, LoadRow, Report, Tuning
from .distributions import Distribution, checked_distribution_of
from .names import load_in_words, name_of_cold_start, name_of_series

# A search goes from rate to rate in steps of up to this (loads/searching.py): what it found is known to one.
SEARCH_STEP = 1.25
# A queue grows faster than its server slows: at half load, in M/M/1, by twice as much. And the interval of a
# percentile, of requests that are taken for independent, is narrower than runs lie apart.
LATENCY_TOLERANCES = 2
_FEWEST_REPEATS = 2
RESAMPLES = 2000  # of the bootstrap of a percentile
_VALID = Verdict()

Key = tuple[str, str, int]  # group, row, and which of that name
Ends = tuple[float, float]  # of an interval


@dataclass(frozen=True)
class Quantile:
    """A percentile of all requests of a load."""

    distribution: Distribution
    share: float

    @property
    def value(self) -> float:
        return self.distribution.percentile_ms(self.share)


@dataclass(frozen=True)
class Searched:
    """The highest rate that a search found to hold."""

    value: float


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure that a row is judged by."""

    name: str
    unit: str
    of: Figure | Quantile | Searched
    higher_is_better: bool = False
    tolerances: int = 1  # how many times the tolerance a change of it has to be

    def ends_of_ratio_to(self, before: Measure) -> Ends | str:
        """The ends of the ratio's interval, or why it has none."""
        match before.of, self.of:
            case Figure() as first, Figure() as second:
                return _ends_of_figures(first, second)
            case Quantile() as first, Quantile() as second:
                return _ends_of_quantiles(first, second)
            case Searched() as first, Searched() as second if first.value:
                ratio = second.value / first.value
                return ratio / SEARCH_STEP, ratio * SEARCH_STEP
            case _:
                return "nothing was found before"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is judged under one name. Where it has a `tail`, that is judged beside its `measure`."""

    group: str
    name: str
    measure: Measure
    whole: Verdict  # its run's
    verdict: Verdict = _VALID  # its own
    tail: Measure | None = None
    p99_ms: float | None = None

    @property
    def is_valid(self) -> bool:
        return self.verdict.is_valid and self.whole.is_valid


def rows_of(report: Report) -> dict[Key, Row]:
    """By name; rows of one name, such as a rate that was tried twice, by their turn too.

    A search that found nothing has no row: one that found something before has lost it.

    Raises:
        ReportError: a histogram is broken, or its row says otherwise.
    """
    found: dict[Key, Row] = {}
    for row in _all_rows(report):
        turn = sum(key[:2] == (row.group, row.name) for key in found)
        found[row.group, row.name, turn] = row
    return found


def on_any_gpu(report: Report) -> Report:
    """Its rows without the names of GPUs, so that they meet those of another."""
    parts: dict[str, tuple[EngineRow | LoadRow | HeldRate | LatencyStep | ColdStart, ...]] = {
        "engines": report.engines,
        "loads": report.loads,
        "held_rates": report.held_rates,
        "breakdown": report.breakdown,
        "cold_starts": report.cold_starts,
    }
    return report.model_copy(
        update={
            name: tuple(row.model_copy(update={"engine": _without_name(row.engine)}) for row in rows)
            for name, rows in parts.items()
        }
    )


def _without_name(engine: EngineLabel) -> EngineLabel:
    return engine if engine.device == "CPU" else engine.model_copy(update={"device": "GPU"})


def _all_rows(report: Report) -> Iterator[Row]:
    whole = report.verdict
    yield from (_of_engine(row, whole) for row in report.engines)
    found = {(held.model, held.url_scheme, held.batch, held.rate_per_s) for held in report.held_rates}
    for load in report.loads:
        # The load at which a search ended is at another rate each time: the search itself is the row.
        if (load.model, load.url_scheme, load.batch, load.rate_per_s) not in found or load.loop == "closed":
            yield _of_load(load, whole)
    for held in report.held_rates:
        if held.rate_per_s is not None:
            yield _of_held_rate(held, held.rate_per_s, whole)
    yield from (_of_step(step, whole) for step in report.breakdown)
    for start in report.cold_starts:
        yield from _of_cold_start(start, whole)
    if report.tuning is not None:
        yield from _of_tuning(report.tuning, whole)


def _of_engine(row: EngineRow, whole: Verdict) -> Row:
    return Row(
        group=f"in process: {row.engine}",
        name=f"batch {row.batch}",
        measure=_throughput(row.throughput),
        p99_ms=row.latencies.p99_ms,  # of calls, of which no histogram is kept
        verdict=row.verdict,
        whole=whole,
    )


def _of_load(row: LoadRow, whole: Verdict) -> Row:
    distribution = checked_distribution_of(row)

    def latency(name: str, share: float) -> Measure:
        of = Quantile(distribution, share)
        return Measure(name=name, unit="ms", of=of, tolerances=LATENCY_TOLERANCES)

    is_open = row.loop == "open"
    has_tail = row.latencies.p99_ms is not None
    return Row(
        group=f"{name_of_series(row)}: {row.engine}",
        name=load_in_words(row),
        measure=latency("median latency", 0.5) if is_open else _throughput(row.throughput),
        tail=latency("p99 latency", 0.99) if has_tail else None,
        p99_ms=row.latencies.p99_ms,
        verdict=row.verdict,
        whole=whole,
    )


def _of_held_rate(row: HeldRate, rate_per_s: float, whole: Verdict) -> Row:
    return Row(
        group=f"{row.model} over {row.url_scheme}, searched, batch {row.batch}: {row.engine}",
        name=f"p99 within {row.limit_p99_ms:g} ms",
        measure=_held_rate(rate_per_s * row.batch),
        p99_ms=row.p99_ms,
        whole=whole,
    )


def _of_step(step: LatencyStep, whole: Verdict) -> Row:
    return Row(
        group=f"latency breakdown of {step.of}: {step.engine}",
        name=step.name,
        measure=_time(step.total),
        whole=whole,
    )


def _of_cold_start(start: ColdStart, whole: Verdict) -> Iterator[Row]:
    figures = {
        "ready": start.ready_ms,
        **{f"first at {batch}": figure for batch, figure in start.first_ms.items()},
        **{f"second at {batch}": figure for batch, figure in start.second_ms.items()},
    }
    group = f"cold start: {name_of_cold_start(start)}"
    for name, figure in figures.items():
        yield Row(group=group, name=name, measure=_time(figure), whole=whole)


def _of_tuning(tuning: Tuning, whole: Verdict) -> Iterator[Row]:
    """The winner, whatever its configuration."""
    if tuning.winner is None:
        return
    step = tuning.steps[tuning.winner]
    if step.held_rate_per_s is not None:
        yield Row(
            group="tuning: the winner",
            name=f"p99 within {tuning.limit_p99_ms:g} ms",
            measure=_held_rate(step.held_rate_per_s),
            p99_ms=step.p99_ms,
            whole=whole,
        )


def _throughput(figure: Figure) -> Measure:
    return Measure(name="throughput", unit=figure.unit, of=figure, higher_is_better=True)


def _time(figure: Figure) -> Measure:
    return Measure(name="time", unit=figure.unit, of=figure)


def _held_rate(per_s: float) -> Measure:
    return Measure(name="held rate", unit="images/s", of=Searched(per_s), higher_is_better=True)


def _ends_of_figures(before: Figure, after: Figure) -> Ends | str:
    if min(len(before.repeats), len(after.repeats)) < _FEWEST_REPEATS:
        return "one repeat has no interval"
    if min(*before.repeats, *after.repeats) <= 0:
        return "a repeat of it is 0"
    return ends_of_ratio(before, after)


def _ends_of_quantiles(before: Quantile, after: Quantile) -> Ends | str:
    """Bootstrapped as if no request depended on another, which makes the interval narrow."""
    if not (before.distribution.samples and after.distribution.samples):
        return "a histogram is empty"
    resampled = [
        quantile.distribution.resampled(quantile.share, RESAMPLES, seed)
        for seed, quantile in enumerate((before, after))
    ]
    ends = np.quantile(resampled[1] / resampled[0], ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(ends[0]), float(ends[1])
