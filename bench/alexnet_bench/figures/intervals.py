"""A headline figure is the median of its repeats, with a bootstrap interval: what another run may well give.

The percentile bootstrap of the median (Efron and Tibshirani, "An introduction to the bootstrap", 1993,
chapter 13), seeded, so that one set of repeats has one interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alexnet_model.records import Record

RESAMPLES = 2000
CONFIDENCE = 0.95


class Figure(Record):
    """One number with its unit. `low` and `high` are the ends of the interval."""

    value: float
    low: float
    high: float
    unit: str
    repeats: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.value:,.4g} {self.unit} ({self.low:,.4g} to {self.high:,.4g})"


def figure_from_repeats(repeats: Sequence[float], unit: str) -> Figure:
    """The median, and where 95% of resampled medians lie.

    Raises:
        ValueError: there is no repeat.
    """
    low, high = np.quantile(_resampled_medians(repeats, seed=0), _ends())
    return Figure(
        value=float(np.median(repeats)),
        low=float(low),
        high=float(high),
        unit=unit,
        repeats=tuple(float(value) for value in repeats),
    )


def ends_of_ratio(before: Figure, after: Figure) -> tuple[float, float]:
    """The ends of the bootstrap interval of how many times `before` is `after`."""
    below, above = (_resampled_medians(figure.repeats, seed) for seed, figure in enumerate((before, after)))
    low, high = np.quantile(above / below, _ends())
    return float(low), float(high)


def _resampled_medians(repeats: Sequence[float], seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if not repeats:
        raise ValueError("a figure needs at least one repeat")
    values = np.asarray(repeats, dtype=np.float64)  # (n,)
    chosen = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    medians: np.ndarray[tuple[int], np.dtype[np.float64]] = np.median(values[chosen], axis=1)
    return medians


def _ends() -> tuple[float, float]:
    return ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
