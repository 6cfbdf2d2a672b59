"""Search the highest request rate whose p99 latency stays within a limit: a bounded bisection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite, sqrt

from alexnet_model.errors import ClientError, UsageError
from alexnet_model.progress import Progress, silent

from ..figures.percentiles import NEEDED
from ..schema import HeldRate, LoadRow, RateProbe
from .plans import ClosedLoop, Load, OpenLoop, Timing
from .server_bench import MeasuredLoad, ServerBench

# A search begins at the throughput of this many requests in flight.
ESTIMATE_LOOP = ClosedLoop(concurrency=16)
# Reasons against a probe that come from a busy machine; the server itself met the limit.
DOUBTS = frozenset({"generator late", "generator starved", "client saturated", "machine busy"})
_ALONE = Timing(burn_in_s=0.2, seconds=1.0, repeats=1)  # for one request at a time
_REQUESTS_PER_PROBE = 1.2 * NEEDED["p99"]  # Poisson arrivals may be fewer than planned
_FIRST_SHARE = 0.8  # of the estimate
_GROWTH = 1.25
_CLOSE_ENOUGH = 1.05  # the search ends when a rate that failed is at most this many times one that held


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The limit, and the bounds of the search.

    Raises:
        UsageError: the limit is not a finite number above 0.
    """

    limit_p99_ms: float
    most_probes: int = 8
    longest_probe_s: float = 60.0  # bounds the lowest rate, as p99 needs a number of requests
    # Whether a rate counts as held if the only reasons against it are `DOUBTS`, or too few replies for a p99;
    # the slowest reply is then compared with the limit, which no p99 exceeds.
    accept_doubts: bool = False

    def __post_init__(self) -> None:
        if not (isfinite(self.limit_p99_ms) and self.limit_p99_ms > 0):
            raise UsageError("limit of p99", got=f"{self.limit_p99_ms:g} ms", expected="more than 0 ms")

    @property
    def slowest_per_s(self) -> float:
        """The lowest rate, in requests a second, at which a probe gives a p99."""
        return _REQUESTS_PER_PROBE / self.longest_probe_s

    def timing_at(self, rate_per_s: float, timing: Timing) -> Timing:
        """Lengthen `timing` where p99 needs more requests at this rate."""
        enough_s = min(_REQUESTS_PER_PROBE / rate_per_s, self.longest_probe_s)
        return replace(timing, seconds=max(timing.seconds, enough_s / timing.repeats))


@dataclass(frozen=True)
class Probes:
    """All rates that a search tried, in order."""

    probes: tuple[RateProbe, ...]
    alone_ms: float | None = None  # median of one request at a time, where that alone is above the limit

    @property
    def held(self) -> RateProbe | None:
        """The highest rate that held the limit."""
        return max((p for p in self.probes if p.held), key=lambda probe: probe.rate_per_s, default=None)

    @property
    def lowest_p99(self) -> RateProbe | None:
        """The probe with the lowest p99."""
        seen = [probe for probe in self.probes if probe.p99_ms is not None]
        return min(seen, key=lambda probe: probe.p99_ms or 0.0, default=None)

    def words(self, limit_p99_ms: float) -> str:
        """Say which rate held the limit, and which did not."""
        held = self.held
        if held is not None:
            above = [p for p in self.probes if not p.held and p.rate_per_s > held.rate_per_s]
            lowest = min(above, key=lambda probe: probe.rate_per_s, default=None)
            beyond = f"{_in_words(lowest)} did not" if lowest else "no higher rate was tried"
            return f"{_in_words(held)} stayed within {limit_p99_ms:g} ms; {beyond}"
        if self.alone_ms is not None:
            return (
                f"no rate stays within {limit_p99_ms:g} ms: one request takes {self.alone_ms:.3g} ms (median)"
            )
        if self.lowest_p99 is None:
            notes = dict.fromkeys(probe.note for probe in self.probes if probe.note)
            return f"no rate could be judged: {'; '.join(notes) or 'none was tried'}"
        lowest_per_s = min(probe.rate_per_s for probe in self.probes)
        tried = f"no rate from {lowest_per_s:.4g} requests/s on stayed within {limit_p99_ms:g} ms"
        return f"{tried}; the best was {_in_words(self.lowest_p99)}"


def bisect_rate(
    probe_at: Callable[[float], RateProbe | None], estimate_per_s: float, options: SearchOptions
) -> Probes:
    """Probe rates around an estimate until the highest rate that holds is known to 5%.

    Args:
        probe_at: Measures at a rate in requests a second; None ends the search.
        estimate_per_s: Requests a second that a closed loop reached.
        options: The limit, and the bounds of the search.
    """
    probes: list[RateProbe] = []
    held_per_s: float | None = None
    failed_per_s: float | None = None
    rate_per_s = max(_FIRST_SHARE * estimate_per_s, options.slowest_per_s)
    while len(probes) < options.most_probes:
        probe = probe_at(rate_per_s)
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
    return Probes(tuple(probes))


@dataclass(frozen=True, kw_only=True)
class RateSearch:
    """The result of a search on a server."""

    record: HeldRate
    kept: MeasuredLoad | None  # the load at the rate of the record
    last: MeasuredLoad | None  # the load that ended the search, such as one in which the server died
    error: KeyboardInterrupt | ClientError | None  # what ended the search


def search_rate(
    bench: ServerBench,
    model: str,
    batch: int,
    options: SearchOptions,
    *,
    estimate_per_s: float,
    progress: Progress = silent,
) -> RateSearch:
    """Search the highest rate of a model whose p99 stays within the limit.

    No rate is tried if a request alone takes longer than the limit. Ctrl-C or an error during a probe ends
    the search; the earlier probes are kept.

    Args:
        bench: Measures the loads; its timing is that of a probe, unless p99 needs more.
        model: The model's name.
        batch: Images in a request.
        options: The limit, and the bounds of the search.
        estimate_per_s: Requests a second that a closed loop reached.
        progress: Called before each probe.

    Raises:
        ClientError: the server did not reply to one request at a time.
        KeyboardInterrupt: Ctrl-C came before a rate was tried.
        UsageError: as `ServerBench.check` does.
    """
    stage = f"rates of {model} within {options.limit_p99_ms:g} ms"
    tried: list[MeasuredLoad] = []
    errors: list[KeyboardInterrupt | ClientError] = []

    def probe_at(rate_per_s: float) -> RateProbe | None:
        load = Load(model=model, batch=batch, loop=OpenLoop(rate_per_s=rate_per_s))
        progress(stage, len(tried), options.most_probes, str(load.loop))
        try:
            tried.append(bench.measure(load, timing=options.timing_at(rate_per_s, bench.timing)))
        except (KeyboardInterrupt, ClientError) as error:
            errors.append(error)
            return None
        return None if tried[-1].ends_run else _probe_from_row(tried[-1].row, options)

    alone = Load(model=model, batch=batch, loop=ClosedLoop(concurrency=1))
    alone_ms = bench.measure(alone, timing=_ALONE).row.latencies.p50_ms
    if alone_ms is not None and alone_ms > options.limit_p99_ms:
        found = Probes((), alone_ms=alone_ms)
    else:
        found = bisect_rate(probe_at, estimate_per_s, options)
    progress(stage, options.most_probes, options.most_probes)
    held = found.held
    best = held or found.lowest_p99
    kept = next((m for m in tried if held and m.row.rate_per_s == held.rate_per_s), None)
    last = tried[-1] if tried and tried[-1].ends_run else None
    words = found.words(options.limit_p99_ms)
    record = HeldRate(
        model=model,
        engine=bench.model(model).engine,
        url_scheme=bench.url.scheme,
        batch=batch,
        limit_p99_ms=options.limit_p99_ms,
        rate_per_s=held.rate_per_s if held else None,
        throughput=kept.row.throughput if kept else None,
        p99_ms=best.p99_ms if best else None,
        probes=found.probes,
        words=f"{words}; the search was stopped early" if last or errors else words,
    )
    return RateSearch(record=record, kept=kept, last=last, error=errors[0] if errors else None)


def _probe_from_row(row: LoadRow, options: SearchOptions) -> RateProbe:
    assert row.rate_per_s is not None
    p99_ms = row.latencies.p99_ms
    notes: list[str] = [reason.rule for reason in row.verdict.reasons]
    if p99_ms is None:
        notes.append(f"{row.latencies.samples} replies, where p99 needs {NEEDED['p99']}")
    is_usable = row.verdict.is_valid
    if options.accept_doubts:
        is_usable = DOUBTS.issuperset(reason.rule for reason in row.verdict.reasons)
        p99_ms = row.latencies.max_ms if p99_ms is None else p99_ms
    held = is_usable and p99_ms is not None and p99_ms <= options.limit_p99_ms
    return RateProbe(rate_per_s=row.rate_per_s, p99_ms=p99_ms, held=held, note=", ".join(notes))


def _in_words(probe: RateProbe) -> str:
    p99 = "no p99" if probe.p99_ms is None else f"p99 {probe.p99_ms:.3g} ms"
    note = f"; {probe.note}" if probe.note else ""
    return f"{probe.rate_per_s:.4g} requests/s ({p99}{note})"
