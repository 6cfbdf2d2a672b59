"""Latency distributions from the histogram of a load: curves, percentiles and their bootstrap."""

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
_NEXT_STEP = "Measure again: alexnet bench ... --output FILE."
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Distribution:
    """Latencies in rising order, each with the number of samples up to it."""

    values_ms: Floats  # (n,)
    counts: npt.NDArray[np.int64]  # (n,), cumulative

    @property
    def samples(self) -> int:
        return int(self.counts[-1]) if len(self.counts) else 0

    def at(self, shares: Floats) -> Floats:
        """Return the latencies in ms that these shares of the samples do not exceed."""
        ranks = np.ceil(shares * self.samples).clip(1, self.samples)
        found: Floats = self.values_ms[np.searchsorted(self.counts, ranks)]
        return found

    def percentile_ms(self, share: float) -> float:
        """Return a percentile in ms by nearest rank, as HdrHistogram does; 0 if there is no sample."""
        rank = max(math.floor(share * self.samples + 0.5), 1)
        return float(self.values_ms[np.searchsorted(self.counts, rank)]) if self.samples else 0.0

    def resampled(self, share: float, resamples: int, seed: int) -> Floats:
        """Return the percentile at `share` of bootstrap resamples, in ms.

        The k-th smallest of n draws with replacement is the quantile at the k-th smallest of n uniform
        numbers, which is Beta(k, n + 1 - k) distributed: no resample has to be drawn. Here k is
        `share * n + 0.5`, the middle one for the median.
        """
        below, above = share * self.samples, (1 - share) * self.samples
        shares = np.random.default_rng(seed).beta(below + 0.5, above + 0.5, resamples)
        return self.at(shares)


def distribution_of(row: LoadRow) -> Distribution:
    """Decode a load's histogram.

    Raises:
        ReportError: it is not an HdrHistogram.
    """
    with needs("bench"):
        from hdrh.codec import HdrCookieException, HdrLengthException
        from hdrh.histogram import HdrHistogram
    try:
        histogram = HdrHistogram.decode(row.histogram.encode())
        found = np.flatnonzero(np.ctypeslib.as_array(histogram.counts))
        values = [
            histogram.get_highest_equivalent_value(histogram.get_value_from_index(int(at))) for at in found
        ]
        counts = [histogram.counts[at] for at in found]
    except (HdrCookieException, HdrLengthException, IndexError, TypeError, ValueError, zlib.error) as error:
        raise ReportError(
            f"histogram of {name_of_load(row)}",
            got=f"{row.histogram[:20]!r} ({error})",
            expected="HdrHistogram's compressed form",
            next_step=_NEXT_STEP,
        ) from error
    return Distribution(np.asarray(values, np.float64) / 1e3, np.cumsum(counts, dtype=np.int64))


def checked_distribution_of(row: LoadRow) -> Distribution:
    """Decode a load's histogram, and check the count and the percentiles of its row against it.

    Raises:
        ReportError: it is not an HdrHistogram, or does not match its row.
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
