"""The highest rate that a server holds within a limit of its p99: a bounded bisection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite, sqrt

from alexnet_model.errors import UsageError

from ..figures.percentiles import NEEDED
from ..schema import RateProbe
from .plans import Timing

# As many requests as p99 needs, and what Poisson arrivals may fall short of that.
_REQUESTS_A_PROBE = 1.2 * NEEDED["p99"]
_FIRST_SHARE = 0.8  # of what the closed loop reached
_GROWTH = 1.25
_CLOSE_ENOUGH = 1.05

Probing = Callable[[float], RateProbe | None]  # None: it makes no sense to go on


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """`longest_probe_s` bounds how low a rate can be judged: p99 needs its requests."""

    limit_p99_ms: float
    most_probes: int = 8
    longest_probe_s: float = 60.0

    def __post_init__(self) -> None:
        if not (isfinite(self.limit_p99_ms) and self.limit_p99_ms > 0):
            raise UsageError("limit of p99", got=f"{self.limit_p99_ms:g} ms", expected="more than 0 ms")

    @property
    def slowest_per_s(self) -> float:
        return _REQUESTS_A_PROBE / self.longest_probe_s

    def timing_at(self, rate_per_s: float, timing: Timing) -> Timing:
        """As long as it was, or long enough for p99 at this rate."""
        enough_s = min(_REQUESTS_A_PROBE / rate_per_s, self.longest_probe_s)
        return replace(timing, seconds=max(timing.seconds, enough_s / timing.repeats))


@dataclass(frozen=True)
class Found:
    """What a search tried, in order. `alone_ms`: a request alone takes longer than the limit (median)."""

    probes: tuple[RateProbe, ...]
    alone_ms: float | None = None

    @property
    def held(self) -> RateProbe | None:
        """The highest rate that held."""
        return max((p for p in self.probes if p.held), key=lambda probe: probe.rate_per_s, default=None)

    @property
    def best(self) -> RateProbe | None:
        """Where none held: the lowest p99 that was seen."""
        seen = [probe for probe in self.probes if probe.p99_ms is not None]
        return min(seen, key=lambda probe: probe.p99_ms or 0.0, default=None)

    def words(self, limit_p99_ms: float) -> str:
        """What was found, and what was not."""
        held = self.held
        if held is not None:
            above = [p for p in self.probes if not p.held and p.rate_per_s > held.rate_per_s]
            lowest = min(above, key=lambda probe: probe.rate_per_s, default=None)
            beyond = f"{_in_words(lowest)} did not" if lowest else "no higher rate was tried"
            return f"{_in_words(held)} held {limit_p99_ms:g} ms; {beyond}"
        if self.alone_ms is not None:
            return f"no rate holds {limit_p99_ms:g} ms: a request alone takes {self.alone_ms:.3g} ms (median)"
        if self.best is None:
            notes = dict.fromkeys(probe.note for probe in self.probes if probe.note)
            return f"no rate could be judged: {'; '.join(notes) or 'none was tried'}"
        lowest_per_s = min(probe.rate_per_s for probe in self.probes)
        tried = f"no rate from {lowest_per_s:.4g} requests/s on held {limit_p99_ms:g} ms"
        return f"{tried}; the best was {_in_words(self.best)}"


def search(probing: Probing, estimate_per_s: float, options: SearchOptions) -> Found:
    """Probe rates around `estimate_per_s`, the requests a second that a closed loop reached."""
    probes: list[RateProbe] = []
    held_per_s: float | None = None
    failed_per_s: float | None = None
    rate_per_s = max(_FIRST_SHARE * estimate_per_s, options.slowest_per_s)
    while len(probes) < options.most_probes:
        probe = probing(rate_per_s)
        if probe is None:
            break
        probes.append(probe)
        if probe.held:
            held_per_s = rate_per_s
        else:
            failed_per_s = rate_per_s
        if failed_per_s is None:
            rate_per_s *= _GROWTH
        elif held_per_s is None:
            if failed_per_s <= options.slowest_per_s:
                break
            rate_per_s = max(failed_per_s / 2, options.slowest_per_s)
        elif failed_per_s <= held_per_s * _CLOSE_ENOUGH:
            break
        else:
            rate_per_s = sqrt(held_per_s * failed_per_s)
    return Found(tuple(probes))


def _in_words(probe: RateProbe) -> str:
    p99 = "no p99" if probe.p99_ms is None else f"p99 {probe.p99_ms:.3g} ms"
    note = f"; {probe.note}" if probe.note else ""
    return f"{probe.rate_per_s:.4g} requests/s ({p99}{note})"
