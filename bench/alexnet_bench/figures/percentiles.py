"""Percentiles of latencies, each given only if there are enough samples.

A percentile is given if, with 99% confidence, at least two samples lie beyond it: the smallest n with
p^n + n(1-p)p^(n-1) <= 0.01. That is 64 samples for p90, 130 for p95, 662 for p99 and 6,636 for p99.9.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from alexnet_model.extras import needs
from alexnet_model.records import Record

# The reported percentiles by name, with the samples that each needs (a test checks them by the rule).
NEEDED = {"p50": 11, "p90": 64, "p95": 130, "p99": 662, "p99.9": 6636}
_LONGEST_US = 3600 * 10**6
_DIGITS = 3


class Latencies(Record):
    """Latencies in ms. A percentile is None if there are fewer samples than it needs (`NEEDED`)."""

    samples: int
    mean_ms: float
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p99_9_ms: float | None
    max_ms: float

    @property
    def refused(self) -> tuple[str, ...]:
        """The names of the percentiles that have too few samples."""
        return tuple(name for name, needed in NEEDED.items() if self.samples < needed)


class LatencyHistogram:
    """A histogram of latencies from 1 us to an hour with three significant digits, of constant size."""

    def __init__(self) -> None:
        with needs("bench"):
            from hdrh.histogram import HdrHistogram
        self._histogram: Any = HdrHistogram(1, _LONGEST_US, _DIGITS)

    def record(self, latency_ms: float) -> None:
        self._histogram.record_value(min(max(round(latency_ms * 1e3), 1), _LONGEST_US))

    def record_all(self, latencies_ms: Iterable[float]) -> None:
        for latency_ms in latencies_ms:
            self.record(latency_ms)

    def add(self, encoded: bytes) -> None:
        """Add another histogram from its encoded form."""
        self._histogram.decode_and_add(encoded)

    def encoded(self) -> bytes:
        """Return HdrHistogram's compressed form."""
        return bytes(self._histogram.encode())

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile in ms however few samples there are. Reported figures come from `latencies`."""
        return float(self._histogram.get_value_at_percentile(percent)) / 1e3

    @property
    def samples(self) -> int:
        return int(self._histogram.get_total_count())

    def latencies(self) -> Latencies:
        """Return the mean, the maximum, and every percentile that has enough samples.

        Raises:
            ValueError: nothing was recorded.
        """
        if not self.samples:
            raise ValueError("no latency was recorded")
        believed = {
            f"{name.replace('.', '_')}_ms": self.percentile_ms(float(name[1:]))
            if self.samples >= needed
            else None
            for name, needed in NEEDED.items()
        }
        return Latencies(
            samples=self.samples,
            mean_ms=self._mean_us() / 1e3,
            max_ms=float(self._histogram.get_max_value()) / 1e3,
            **believed,
        )

    def _mean_us(self) -> float:
        """Return what `HdrHistogram.get_mean_value` does, which visits tens of thousands of counts of 0."""
        histogram = self._histogram
        counts = np.frombuffer(histogram.counts, type(histogram.counts)._type_)
        total = 0
        for index in counts.nonzero()[0].tolist():
            value = histogram.get_value_from_index(index)
            lowest = histogram.get_lowest_equivalent_value(value)
            middle = (lowest + histogram.get_highest_equivalent_value(value) + 1) // 2
            total += int(counts[index]) * middle
        return float(total) / self.samples
