"""What is read out of a load's histogram: its curve, and how far its median may be from another run's."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alexnet_model.errors import ReportError
from alexnet_model.extras import needs

from .names import name_of_load
from .schema import LoadRow

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

    def resampled_medians(self, resamples: int, seed: int) -> Floats:
        """Medians of bootstrap resamples.

        The median of n draws with replacement is where the middle of n uniform numbers falls in the
        distribution, and that is Beta(n/2, n/2) distributed: no resample has to be drawn.
        """
        half = self.samples / 2
        shares = np.random.default_rng(seed).beta(half + 0.5, half + 0.5, resamples)
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
            next_step="Measure again: alexnet bench ... --json FILE.",
        ) from error
    values, counts = zip(*steps, strict=True) if steps else ((), ())
    return Distribution(np.asarray(values, np.float64), np.cumsum(counts, dtype=np.int64))
