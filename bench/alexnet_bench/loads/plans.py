"""What a load is: how its requests are sent, for how long, and how worker processes share it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from alexnet_model.errors import UsageError

MOST_OPEN = 10_000  # requests at any time
MOST_PER_S = 100_000  # requests of an open loop: far more than one machine can send
MOST_REQUESTS = 10_000_000  # of one open loop, whose times are all drawn beforehand


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """As soon as a request is answered the next one is sent: `concurrency` of them are open at any time."""

    concurrency: int

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= MOST_OPEN:
            raise UsageError("concurrency", got=f"{self.concurrency:,}", expected=f"1 to {MOST_OPEN:,}")

    def __str__(self) -> str:
        return f"{self.concurrency} at a time"


@dataclass(frozen=True, kw_only=True)
class OpenLoop:
    """Requests are sent at times drawn beforehand, whatever became of the ones before (Poisson arrivals)."""

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
    """The burn-in is thrown away; then come the repeats, one after the other without a break."""

    burn_in_s: float = 1.0
    seconds: float = 5.0  # of a repeat
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
class Part:
    """What one process does of a load. `starts_s` is on the clock that the machine's processes share."""

    loop: Loop
    timing: Timing
    starts_s: float = 0.0
    seed: int = 0
    statistics_of: tuple[str, ...] = ()  # the models whose statistics this process reads

    @property
    def measured_from_s(self) -> float:
        return self.starts_s + self.timing.burn_in_s

    @property
    def ends_s(self) -> float:
        return self.starts_s + self.timing.total_s


def check_bounds(loop: Loop, timing: Timing) -> None:
    """Whether an open loop's times of sending find room.

    Raises:
        UsageError: there are too many.
    """
    if isinstance(loop, OpenLoop) and (requests := loop.rate_per_s * timing.total_s) > MOST_REQUESTS:
        raise UsageError(
            f"{loop} for {timing.total_s:g} s",
            got=f"{requests:,.0f} requests",
            expected=f"at most {MOST_REQUESTS:,}",
            next_step="Ask for a lower rate, or for less time.",
        )


def loops_for_workers(loop: Loop, workers: int) -> tuple[Loop, ...]:
    """Shares that add up to the loop, for as many processes as there is something to do for.

    Independent Poisson arrivals together are Poisson arrivals of the summed rate.
    """
    if isinstance(loop, OpenLoop):
        return (OpenLoop(rate_per_s=loop.rate_per_s / workers),) * workers
    share, more = divmod(loop.concurrency, workers)
    shares = [share + (index < more) for index in range(workers)]
    return tuple(ClosedLoop(concurrency=share) for share in shares if share)


def arrivals(part: Part, rate_per_s: float) -> npt.NDArray[np.float64]:
    """When to send, in order: gaps of an exponential distribution from the part's start to its end."""
    random = np.random.default_rng(part.seed)
    length_s = part.timing.total_s
    at_once = int(1.1 * rate_per_s * length_s) + 100
    times_s = np.zeros(0)
    while not len(times_s) or times_s[-1] < length_s:
        start_s = times_s[-1] if len(times_s) else 0.0
        gaps_s = random.exponential(1 / rate_per_s, at_once)
        times_s = np.concatenate([times_s, start_s + np.cumsum(gaps_s)])
    return part.starts_s + times_s[times_s < length_s]
