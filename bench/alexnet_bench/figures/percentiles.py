"""Percentiles of latencies, each refused where the sample is too small to know it.

A percentile is believed where, with 99% confidence, at least two samples lie beyond it: the smallest n with
p^n + n(1-p)p^(n-1) <= 0.01. That is 64 samples for p90, 130 for p95, 662 for p99 and 6,636 for p99.9.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

from alexnet_model.extras import needs
from alexnet_model.records import Record

# The percentiles that are reported, by name, with the samples that each needs (held to the rule by a test).
NEEDED = {"p50": 11, "p90": 64, "p95": 130, "p99": 662, "p99.9": 6636}
_LONGEST_US = 3600 * 10**6
_DIGITS = 3


class Latencies(Record):
    """Milliseconds. None where a percentile needs more samples than there are (`NEEDED` says how many)."""

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
        """The percentiles that are not given."""
        return tuple(name for name, needed in NEEDED.items() if self.samples < needed)


class LatencyHistogram:
    """An HdrHistogram of microseconds to an hour, to three digits: a billion take no more room than one."""

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
        """Take in what another histogram was encoded to."""
        self._histogram.decode_and_add(encoded)

    def encoded(self) -> bytes:
        """HdrHistogram's own compressed form."""
        return bytes(self._histogram.encode())

    def percentile_ms(self, percent: float) -> float:
        """Whatever the number of samples: for curves; a figure is asked of `latencies`."""
        return float(self._histogram.get_value_at_percentile(percent)) / 1e3

    @property
    def samples(self) -> int:
        return int(self._histogram.get_total_count())

    def latencies(self) -> Latencies:
        """The figures.

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
            mean_ms=float(self._histogram.get_mean_value()) / 1e3,
            max_ms=float(self._histogram.get_max_value()) / 1e3,
            **believed,
        )


def samples_needed(share: float, *, confidence: float = 0.99) -> int:
    """How many samples the percentile at `share` (0.99 for p99) needs."""
    risk = 1 - confidence
    return next(n for n in count(2) if share**n + n * (1 - share) * share ** (n - 1) <= risk)
