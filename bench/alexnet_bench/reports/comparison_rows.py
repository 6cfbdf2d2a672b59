"""Rows that are compared between two reports: each with a name and the figure by which it is judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..figures.intervals import CONFIDENCE, Figure, ends_of_ratio
from ..figures.verdicts import Verdict
from .distributions import Distribution

# A search goes from rate to rate by up to this factor (loads/searching.py): its result is known to one step.
SEARCH_STEP = 1.25
# Latencies get this many times the tolerance. At half load a queue (M/M/1) grows by twice as much as its
# server slows down; and the interval of a percentile assumes independent requests, so it is too narrow.
LATENCY_TOLERANCES = 2
_RESAMPLES = 2000  # of the bootstrap of a percentile
_VALID = Verdict()
Ends = tuple[float, float]  # of an interval


@dataclass(frozen=True)
class Quantile:
    """A percentile of all requests of a load."""

    distribution: Distribution
    share: float

    @property
    def value(self) -> float:
        return self.distribution.percentile_ms(self.share)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure by which a row is judged. A change counts beyond `tolerances` times the tolerance."""

    name: str
    unit: str
    of: Figure | Quantile | float  # a number alone: the rate that a search found
    higher_is_better: bool = False
    tolerances: int = 1

    @property
    def value(self) -> float:
        return self.of if isinstance(self.of, float) else self.of.value

    def ends_of_ratio_to(self, before: Measure) -> Ends | str:
        """Return the ends of the 95% interval of this / before, or why there is none."""
        match before.of, self.of:
            case Figure() as first, Figure() as second:
                return _ends_of_figures(first, second)
            case Quantile() as first, Quantile() as second:
                return _ends_of_quantiles(first, second)
            case float() as first, float() as second if first:
                return second / first / SEARCH_STEP, second / first * SEARCH_STEP
            case _:
                return "nothing was found before"


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """What is judged under one name: by its `measure`, and by its `tail` if it has one."""

    group: str
    name: str
    measure: Measure
    verdict: Verdict = _VALID  # the verdict on this row
    run: Verdict = _VALID  # the verdict on the whole run, which `compare_reports` sets
    tail: Measure | None = None
    p99_ms: float | None = None

    @property
    def is_valid(self) -> bool:
        return self.verdict.is_valid and self.run.is_valid


def throughput(figure: Figure) -> Measure:
    """Judge by throughput: higher is better."""
    return Measure(name="throughput", unit=figure.unit, of=figure, higher_is_better=True)


def time_of(figure: Figure) -> Measure:
    """Judge by time: lower is better."""
    return Measure(name="time", unit=figure.unit, of=figure)


def held_rate(images_per_s: float) -> Measure:
    """Judge by the highest rate that a search found: higher is better."""
    return Measure(name="held rate", unit="images/s", of=images_per_s, higher_is_better=True)


def latency(distribution: Distribution, name: str, share: float) -> Measure:
    """Judge by a percentile of latencies: lower is better, with twice the tolerance."""
    return Measure(name=name, unit="ms", of=Quantile(distribution, share), tolerances=LATENCY_TOLERANCES)


def _ends_of_figures(before: Figure, after: Figure) -> Ends | str:
    if min(len(before.repeats), len(after.repeats)) < 2:
        return "one repeat has no interval"
    if min(*before.repeats, *after.repeats) <= 0:
        return "a repeat of it is 0"
    return ends_of_ratio(before, after)


def _ends_of_quantiles(before: Quantile, after: Quantile) -> Ends | str:
    """Bootstrap as if requests were independent, which makes the interval narrow."""
    if not (before.distribution.samples and after.distribution.samples):
        return "a histogram is empty"
    resampled = [
        quantile.distribution.resampled(quantile.share, _RESAMPLES, seed)
        for seed, quantile in enumerate((before, after))
    ]
    ends = np.quantile(resampled[1] / resampled[0], ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(ends[0]), float(ends[1])
