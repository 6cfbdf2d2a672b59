"""Results of a load: what one process counted, what several segments add up to, and the row of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import sqrt
from typing import TypeAlias

from alexnet_clients import ModelConfig, ModelStatistics, ServerUrl
from alexnet_model.errors import ConnectionLost, NotReady, Unreachable
from alexnet_model.records import PRECISIONS

from ..figures.intervals import figure_from_repeats
from ..figures.percentiles import LatencyHistogram
from ..figures.verdicts import (
    MOST_UNANSWERED,
    Reason,
    Verdict,
    answers_reason,
    errors_reason,
    late_reason,
    samples_reason,
    saturation_reason,
    starved_reason,
    verdict_from,
)
from ..schema import EngineLabel, LoadRow
from .plans import ClosedLoop, Load, Loop, OpenLoop

SERVER_GONE = (Unreachable, ConnectionLost, NotReady)  # errors of a server that is not there
Span: TypeAlias = tuple[ModelStatistics, ModelStatistics]  # a model's statistics before and after
_BY_BATCH = "executions_by_batch"
_SUMS = tuple(field.name for field in fields(ModelStatistics) if field.name != _BY_BATCH)
# A server may count fewer requests than a client by those in flight at the two readings.
_LEAST_COUNTED_SHARE = 0.9
_IN_FLIGHT_AT_READINGS = 100
_LITTLE_BATCHING = 0.1  # below this share of images executed with another request's, name the cause
_MOSTLY_IDLE = 0.5  # an open loop that keeps the model busy for a smaller share hardly ever queues requests


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What was counted in a load. Requests count if they were sent after the burn-in."""

    latencies: bytes  # an encoded LatencyHistogram
    send_delays: bytes | None  # of an open loop, encoded: how much later than planned requests were sent
    completed: tuple[int, ...]  # replies that came in each repeat
    requests: int
    failed: Mapping[str, int]  # by the error's class name
    failure: str  # one of the errors
    checked: int
    wrong: int  # of the checked replies
    wrong_example: str
    cpu_share: float  # of one core, by the busiest process
    stalled_share: float  # of the time, in which the most affected process was kept from running
    held_back: int  # sends that waited because too many requests were in flight
    measured_s: float
    repeat_s: float
    server_gone: bool = False
    interrupted: bool = False
    statistics: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)  # by model, a span a segment

    @property
    def failures(self) -> int:
        return sum(self.failed.values())

    @property
    def failed_in_words(self) -> str:
        return ", ".join(f"{count:,} {kind}" for kind, count in self.failed.items())

    def rates_per_s(self) -> tuple[float, ...]:
        """Replies a second in each whole repeat; if there is none, in the measured part of the first."""
        whole = int(self.measured_s / self.repeat_s + 1e-9)
        if whole:
            return tuple(count / self.repeat_s for count in self.completed[:whole])
        return (self.completed[0] / self.measured_s,) if self.measured_s > 0 else ()

    def send_delay_p99_ms(self) -> float | None:
        """The p99 of how late an open loop sent, for any number of requests.

        The minimum sample count of other percentiles would let a late generator pass.
        """
        if self.send_delays is None:
            return None
        delays = _histogram(self.send_delays)
        return delays.percentile_ms(99) if delays.samples else None

    def was_restarted(self, model: str) -> bool:
        """Whether the statistics of `model` show that the server started again during the load."""
        spans = self.statistics.get(model, ())
        return any(counters_restarted(before, after) for before, after in spans) or counted_too_few(
            spans, self.requests - self.failures
        )


def combined_in_parallel(results: Sequence[LoadResult]) -> LoadResult:
    """Combine the results of several processes that ran at the same time."""
    return replace(
        _summed(results),
        completed=tuple(sum(counts) for counts in zip(*(r.completed for r in results), strict=True)),
        cpu_share=max(result.cpu_share for result in results),
        stalled_share=max(result.stalled_share for result in results),
        measured_s=min(result.measured_s for result in results),
    )


def combined_in_sequence(results: Sequence[LoadResult]) -> LoadResult:
    """Combine the results of the same load run several times; the time between the runs does not count."""
    measured_s = sum(result.measured_s for result in results)

    def mean(share: Callable[[LoadResult], float]) -> float:
        return sum(share(r) * r.measured_s for r in results) / measured_s if measured_s else 0.0

    return replace(
        _summed(results),
        completed=tuple(count for result in results for count in result.completed),
        cpu_share=mean(lambda result: result.cpu_share),
        stalled_share=mean(lambda result: result.stalled_share),
        measured_s=measured_s,
    )


def _summed(results: Sequence[LoadResult]) -> LoadResult:
    """Add up what adds up the same way in both cases. All other fields are those of the first result."""
    failed: Counter[str] = Counter()
    statistics: dict[str, tuple[Span, ...]] = {}
    for result in results:
        failed.update(result.failed)
        for model, spans in result.statistics.items():
            statistics[model] = (*statistics.get(model, ()), *spans)
    send_delays = [result.send_delays for result in results if result.send_delays is not None]
    return replace(
        results[0],
        latencies=_histogram(*(result.latencies for result in results)).encoded(),
        send_delays=_histogram(*send_delays).encoded() if send_delays else None,
        requests=sum(result.requests for result in results),
        failed=dict(failed),
        failure=next((result.failure for result in results if result.failure), ""),
        checked=sum(result.checked for result in results),
        wrong=sum(result.wrong for result in results),
        wrong_example=next((result.wrong_example for result in results if result.wrong_example), ""),
        held_back=sum(result.held_back for result in results),
        server_gone=any(result.server_gone for result in results),
        interrupted=any(result.interrupted for result in results),
        statistics=statistics,
    )


def counted_in(spans: Iterable[Span]) -> ModelStatistics:
    """Add up what a server counted in each span. All zero if its counters restarted in one of them."""
    spans = list(spans)
    if any(counters_restarted(before, after) for before, after in spans):
        return ModelStatistics()
    executions: Counter[int] = Counter()
    for before, after in spans:
        executions.update(after.executions_by_batch)
        executions.subtract(before.executions_by_batch)
    sums = {
        name: sum(getattr(after, name) - getattr(before, name) for before, after in spans) for name in _SUMS
    }
    return ModelStatistics(**sums, executions_by_batch={b: n for b, n in sorted(executions.items()) if n})


def counters_restarted(before: ModelStatistics, after: ModelStatistics) -> bool:
    """Whether a server started to count again: its counters are lower than before."""
    fewer = (after.executions_by_batch.get(b, 0) < n for b, n in before.executions_by_batch.items())
    return after.requests < before.requests or any(fewer)


def counted_too_few(spans: Sequence[Span], replies: int) -> bool:
    """Whether a server counted clearly fewer requests than it replied to.

    That is a restart after which the counters have overtaken the first reading. A server that counts nothing
    at all was not restarted.
    """
    counted = counted_in(spans).requests
    return 0 < counted < _LEAST_COUNTED_SHARE * replies - _IN_FLIGHT_AT_READINGS


@dataclass(frozen=True, kw_only=True)
class ModelUnderTest:
    """The served model that a load is sent to."""

    url: ServerUrl
    config: ModelConfig
    network: ModelConfig  # the model that computes: of an ensemble its last model, otherwise itself
    device: str

    @property
    def counted(self) -> tuple[str, ...]:
        """Names of the models whose statistics a request changes."""
        return tuple(dict.fromkeys((self.config.name, *self.config.steps)))

    @property
    def engine(self) -> EngineLabel:
        """What computes, as far as the configuration tells."""
        parameters = self.network.parameters
        precision = next((p for p in PRECISIONS if p == parameters.get("precision")), None)
        return EngineLabel(
            runtime=self.network.backend or "unknown",
            device=self.device,
            computes_in=parameters.get("computes_in", "unknown"),
            precision=precision,
        )


def load_row(tested: ModelUnderTest, load: Load, result: LoadResult, *, request_bytes: int) -> LoadRow | None:
    """Make the row of a report, with its verdict.

    Args:
        tested: The model that the load was sent to.
        load: The load.
        result: What was counted.
        request_bytes: Size of one request on the wire.

    Returns:
        The row; None if there was no reply.
    """
    loop = load.loop
    latencies = _histogram(result.latencies)
    rates_per_s = result.rates_per_s()
    if not latencies.samples or not rates_per_s:
        return None
    counted = counted_in(result.statistics.get(tested.network.name, ()))
    return LoadRow(
        model=load.model,
        engine=tested.engine,
        url_scheme=tested.url.scheme,
        loop="closed" if isinstance(loop, ClosedLoop) else "open",
        batch=load.batch,
        concurrency=loop.concurrency if isinstance(loop, ClosedLoop) else None,
        rate_per_s=loop.rate_per_s if isinstance(loop, OpenLoop) else None,
        throughput=figure_from_repeats([rate * load.batch for rate in rates_per_s], "images/s"),
        latencies=latencies.latencies(),
        histogram=result.latencies.decode("ascii"),
        requests=result.requests,
        failed=result.failures,
        failed_by_kind=dict(result.failed),
        late_p99_ms=result.send_delay_p99_ms(),
        client_cpu_share=result.cpu_share,
        client_away_share=result.stalled_share,
        request_bytes=request_bytes,
        executions_by_batch=dict(counted.executions_by_batch),
        batching=batching_in_words(counted, load, tested.network),
        verdict=load_verdict(result, loop, was_restarted=result.was_restarted(tested.network.name)),
    )


def load_verdict(result: LoadResult, loop: Loop, *, was_restarted: bool = False) -> Verdict:
    """Collect every reason against a load, the most serious first."""
    examples = f"{result.failure} ({result.failed_in_words})"
    return verdict_from(
        _gone_reason(result, was_restarted=was_restarted),
        errors_reason(result.failures, result.requests, examples),
        answers_reason(result.wrong, result.checked, result.wrong_example),
        _overload_reason(result, loop),
        _held_back_reason(result),
        late_reason(result.send_delay_p99_ms()),
        starved_reason(result.stalled_share),
        saturation_reason(result.cpu_share),
        _interrupted_reason(result),
        samples_reason(result.requests - result.failures, "replies", "Measure for longer: --seconds."),
    )


def _gone_reason(result: LoadResult, *, was_restarted: bool) -> Reason | None:
    if result.server_gone:
        found = f"the server stopped replying after {result.measured_s:.1f} s"
        found += f", such as: {result.failure.rstrip('.')}" if result.failure else ""
    elif was_restarted:
        found = "the server counted fewer requests than it replied to: it was restarted during the load"
    else:
        return None
    return Reason(rule="server gone", found=found, advice="See the server's log, and measure again.")


def _overload_reason(result: LoadResult, loop: Loop) -> Reason | None:
    """An open loop above the server's capacity: latencies only say how long the run lasted."""
    rates_per_s = result.rates_per_s()
    if not isinstance(loop, OpenLoop) or result.failures or result.interrupted or not rates_per_s:
        return None
    completed_per_s = sum(rates_per_s) / len(rates_per_s)
    # Three standard deviations of Poisson arrivals.
    by_chance = 3 / sqrt(loop.rate_per_s * result.measured_s)
    if completed_per_s >= (1 - max(MOST_UNANSWERED, by_chance)) * loop.rate_per_s:
        return None
    return Reason(
        rule="server overloaded",
        found=f"the server replied to {completed_per_s:.4g} of {loop.rate_per_s:.4g} requests/s",
        advice="Use a lower rate: the queue and the latencies grow for as long as the run lasts.",
    )


def _held_back_reason(result: LoadResult) -> Reason | None:
    if not result.held_back:
        return None
    return Reason(
        rule="generator late",
        found=f"{result.held_back:,} requests waited because too many were in flight",
        advice="Use a lower rate: the server does not keep up.",
    )


def _interrupted_reason(result: LoadResult) -> Reason | None:
    if not result.interrupted:
        return None
    return Reason(
        rule="interrupted",
        found=f"stopped after {result.measured_s:.1f} s of measuring",
        advice="Let it run to the end.",
    )


def batching_in_words(counted: ModelStatistics, load: Load, network: ModelConfig) -> str:
    """Say whether the server executed requests together, and if it did not, why.

    Args:
        counted: What the server counted during the load.
        load: The load.
        network: Configuration of the model that computes.
    """
    executions_by_batch = counted.executions_by_batch
    executions = sum(executions_by_batch.values())
    if not executions:
        return "unknown: the server counted no execution"
    images = sum(size * count for size, count in executions_by_batch.items())
    together = sum(size * count for size, count in executions_by_batch.items() if size > load.batch) / images
    if together >= _LITTLE_BATCHING:
        mean, largest = images / executions, max(executions_by_batch)
        return f"yes: {mean:.1f} images an execution on average, {largest} at most"
    cause = _why_not_batched(counted, load, network)
    return f"hardly, for {together:.1%} of the images: {cause}" if together else f"no: {cause}"


def _why_not_batched(counted: ModelStatistics, load: Load, network: ModelConfig) -> str:
    loop = load.loop
    if network.max_batch < 2:
        return f"max_batch_size is {network.max_batch}"
    if network.queue_delay_us is None:
        return "the model has no dynamic_batching"
    if 2 * load.batch > network.max_batch:
        return f"two requests of {load.batch} images are more than max_batch_size {network.max_batch}"
    if isinstance(loop, ClosedLoop):
        if loop.concurrency < 2:
            return "concurrency 1, a synchronous client: there is never a second request to batch with"
    elif counted.requests:
        # The time of a request is the time of its execution, as hardly any were batched.
        execution_ms = counted.compute_infer_ns / counted.requests / 1e6
        if loop.rate_per_s * execution_ms < 1e3 * _MOSTLY_IDLE:
            gap_ms = 1e3 / loop.rate_per_s
            return (
                f"requests come {gap_ms:.3g} ms apart and each takes {execution_ms:.3g} ms: "
                "two are rarely in the queue together"
            )
    if network.queue_delay_us == 0:
        return "the queue delay is 0 and an instance was idle when a request came"
    return f"no second request came within the queue delay of {network.queue_delay_us} us"


def _histogram(*encoded: bytes) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for one in encoded:
        histogram.add(one)
    return histogram
