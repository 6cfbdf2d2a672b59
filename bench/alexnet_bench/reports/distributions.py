"""What is read out of a load's histogram: its curve, and how far a percentile may be from another run's."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alexnet_model.errors import ReportError
from alexnet_model.extras import needs

from ..schema import LoadRow
from .names import name_of_load

_PRECISION = 1e-3  # of a latency, relative: HdrHistogram keeps three digits
_NEXT_STEP = "Measure again: alexnet bench ... --json FILE."
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Distribution:
    """Latencies in rising order, with how many of the samples are up to each."""

    values_ms: Floats  # (n,)
    counts: npt.NDArray[np.int64]  # (n,), summed up

    @property
    def samples(self) -> int:
        return int(self.counts[-1]) if len(self.counts) else 0

    def at(self, shares: Floats) -> Floats:
        """The latencies, in milliseconds, that these shares of the samples do not exceed."""
        ranks = np.ceil(shares * self.samples).clip(1, self.samples)
        found: Floats = self.values_ms[np.searchsorted(self.counts, ranks)]
        return found

    def percentile_ms(self, share: float) -> float:
        """As the row has it: HdrHistogram rounds to the nearest rank. 0 where there is no sample."""
        rank = max(math.floor(share * self.samples + 0.5), 1)
        return float(self.values_ms[np.searchsorted(self.counts, rank)]) if self.samples else 0.0

    def resampled(self, share: float, resamples: int, seed: int) -> Floats:
        """The percentile at `share` of bootstrap resamples.

        The k-th smallest of n draws with replacement is where the k-th of n uniform numbers falls in the
        distribution, and that is Beta(k, n + 1 - k) distributed: no resample has to be drawn. Here k is
        `share * n + 0.5`, the middle one for the median.
        """
        below, above = share * self.samples, (1 - share) * self.samples
        shares = np.random.default_rng(seed).beta(below + 0.5, above + 0.5, resamples)
        return self.at(shares)


def distribution_of(row: LoadRow) -> Distribution:
    """Decode a load's histogram.

    Raises:
        ReportError: it is none.
    """
    with needs("bench"):
        from hdrh.codec import HdrCookieException, HdrLengthException
        from hdrh.histogram import HdrHistogram
    try:
        histogram = HdrHistogram.decode(row.histogram.encode())
        steps = [
            (step.value_iterated_to / 1e3, step.count_added_in_this_iter_step)
            for step in histogram.get_recorded_iterator()
        ]
    except (HdrCookieException, HdrLengthException, IndexError, TypeError, ValueError, zlib.error) as error:
        raise ReportError(
            f"histogram of {name_of_load(row)}",
            got=f"{row.histogram[:20]!r} ({error})",
            expected="HdrHistogram's compressed form",
            next_step=_NEXT_STEP,
        ) from error
    values, counts = zip(*steps, strict=True) if steps else ((), ())
    return Distribution(np.asarray(values, np.float64), np.cumsum(counts, dtype=np.int64))


def checked_distribution_of(row: LoadRow) -> Distribution:
    """Decode a load's histogram, and hold the row's own count and percentiles against it.

    Raises:
        ReportError: it is none, or they are not of it: the file was altered, or is broken.
    """
    distribution = distribution_of(row)
    if row.latencies.samples != distribution.samples:
        _refuse(row, f"{row.latencies.samples:,} samples", f"the {distribution.samples:,} of its histogram")
    for name, share, stored_ms in (
        ("p50", 0.5, row.latencies.p50_ms),
        ("p99", 0.99, row.latencies.p99_ms),
    ):
        found_ms = distribution.percentile_ms(share)
        if stored_ms is not None and not math.isclose(stored_ms, found_ms, rel_tol=_PRECISION):
            _refuse(row, f"a {name} of {stored_ms:g} ms", f"the {found_ms:g} ms of its histogram")
    return distribution


def _refuse(row: LoadRow, got: str, expected: str) -> None:
    raise ReportError(
        f"latencies of {name_of_load(row)}",
        got=got,
        expected=expected,
        next_step=f"The file was altered or is broken. {_NEXT_STEP}",
    )
