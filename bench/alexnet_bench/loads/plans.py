"""Descriptions of a load: which model, how its requests are sent, for how long, and in which segments."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from alexnet_model.errors import UsageError

MOST_OPEN = 10_000  # requests in flight
MOST_PER_S = 100_000  # requests of an open loop: far more than one machine can send
MOST_REQUESTS = 10_000_000  # of one open loop, whose send times are all drawn beforehand


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """Keep a fixed number of requests in flight: each reply is followed by the next request.

    Raises:
        UsageError: `concurrency` is below 1 or above 10,000.
    """

    concurrency: int

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= MOST_OPEN:
            raise UsageError("concurrency", got=f"{self.concurrency:,}", expected=f"1 to {MOST_OPEN:,}")

    def __str__(self) -> str:
        return f"{self.concurrency} at a time"


@dataclass(frozen=True, kw_only=True)
class OpenLoop:
    """Send requests at times drawn beforehand (Poisson arrivals), independently of earlier replies.

    Raises:
        UsageError: `rate_per_s` is not above 0, or above 100,000 requests a second.
    """

    rate_per_s: float  # requests

    def __post_init__(self) -> None:
        if not 0 < self.rate_per_s <= MOST_PER_S:
            expected = f"more than 0, to {MOST_PER_S:,} requests/s"
            raise UsageError("rate", got=f"{self.rate_per_s:g} requests/s", expected=expected)

    def __str__(self) -> str:
        return f"{self.rate_per_s:.4g} requests/s"


Loop: TypeAlias = ClosedLoop | OpenLoop


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a load runs: a burn-in whose requests are not counted, then the repeats without a pause.

    Raises:
        UsageError: a duration is not finite, `seconds` is not above 0, or there is no repeat.
    """

    burn_in_s: float = 1.0
    seconds: float = 5.0  # of one repeat
    repeats: int = 3

    def __post_init__(self) -> None:
        if not (isfinite(self.seconds) and self.seconds > 0):
            raise UsageError("seconds", got=f"{self.seconds:g}", expected="a finite number above 0")
        if not (isfinite(self.burn_in_s) and self.burn_in_s >= 0):
            raise UsageError("burn-in", got=f"{self.burn_in_s:g} s", expected="a finite 0 s or more")
        if self.repeats < 1:
            raise UsageError("repeats", got=str(self.repeats), expected="at least 1")

    @property
    def measured_s(self) -> float:
        return self.repeats * self.seconds

    @property
    def total_s(self) -> float:
        return self.burn_in_s + self.measured_s


@dataclass(frozen=True, kw_only=True)
class Load:
    """One model at one batch size under one loop."""

    model: str
    loop: Loop
    batch: int = 1  # images in a request

    def __str__(self) -> str:
        return f"{self.model}, {self.loop}, batch {self.batch}"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The share of a load that one process generates, once through its timing."""

    loop: Loop
    timing: Timing
    starts_s: float = 0.0  # on the monotonic clock, which all processes of a machine share
    seed: int = 0  # of an open loop's send times
    statistics_of: tuple[str, ...] = ()  # models whose server statistics this process reads

    @property
    def measured_from_s(self) -> float:
        return self.starts_s + self.timing.burn_in_s

    @property
    def ends_s(self) -> float:
        return self.starts_s + self.timing.total_s

    def send_times(self, rate_per_s: float) -> npt.NDArray[np.float64]:
        """Draw Poisson arrivals at this rate: sorted times from the segment's start to its end."""
        random = np.random.default_rng(self.seed)
        length_s = self.timing.total_s
        count = int(1.1 * rate_per_s * length_s) + 100
        times_s = np.zeros(0)
        while not len(times_s) or times_s[-1] < length_s:
            start_s = times_s[-1] if len(times_s) else 0.0
            gaps_s = random.exponential(1 / rate_per_s, count)
            times_s = np.concatenate([times_s, start_s + np.cumsum(gaps_s)])
        return self.starts_s + times_s[times_s < length_s]


def check_requests(loop: Loop, timing: Timing) -> None:
    """Check that an open loop's send times fit into memory.

    Raises:
        UsageError: it would send more than 10 million requests.
    """
    if isinstance(loop, OpenLoop) and (requests := loop.rate_per_s * timing.total_s) > MOST_REQUESTS:
        raise UsageError(
            f"{loop} for {timing.total_s:g} s",
            got=f"{requests:,.0f} requests",
            expected=f"at most {MOST_REQUESTS:,}",
            next_step="Use a lower rate or less time.",
        )


def loops_for_processes(loop: Loop, processes: int) -> tuple[Loop, ...]:
    """Split a loop among processes. A process that would get no request is left out.

    Poisson arrivals of several processes add up to Poisson arrivals at the sum of their rates.
    """
    if isinstance(loop, OpenLoop):
        return (OpenLoop(rate_per_s=loop.rate_per_s / processes),) * processes
    share, more = divmod(loop.concurrency, processes)
    shares = [share + (index < more) for index in range(processes)]
    return tuple(ClosedLoop(concurrency=share) for share in shares if share)
