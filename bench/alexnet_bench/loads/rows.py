"""From what was counted to a row of a report: figures, batches and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from alexnet_clients import ModelConfig, ModelStatistics, ServerUrl
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
from .batching import Batcher, batching_words
from .load_results import Outcome
from .plans import ClosedLoop, Loop, OpenLoop
from .server_counts import Span, began_anew, counted_in, forgot_some


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model that a load is on. `network` is what computes: of an ensemble its last model, else itself."""

    url: ServerUrl
    config: ModelConfig
    network: ModelConfig
    device: str

    @property
    def counted(self) -> tuple[str, ...]:
        """The models whose statistics tell what a request of this one cost."""
        return tuple(dict.fromkeys((self.config.name, *self.config.steps)))

    @property
    def engine(self) -> EngineLabel:
        """In the words of its configuration, as far as they go."""
        parameters = self.network.parameters
        precision = next((p for p in PRECISIONS if p == parameters.get("precision")), None)
        return EngineLabel(
            runtime=self.network.backend or "unknown",
            device=self.device,
            computes_in=parameters.get("computes_in", "unknown"),
            precision=precision,
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One load with its row."""

    row: LoadRow
    outcome: Outcome
    restarted: bool = False

    @property
    def is_over(self) -> bool:
        """Whether it makes no sense to go on to the next load."""
        return self.outcome.interrupted or self.outcome.server_gone or self.restarted


def load_row(
    subject: Subject, loop: Loop, *, batch: int, request_bytes: int, outcome: Outcome
) -> LoadRow | None:
    """The row; None where no request was answered."""
    latencies = _histogram(outcome.latencies)
    rates_per_s = outcome.rates_per_s()
    if not latencies.samples or not rates_per_s:
        return None
    spans = outcome.statistics.get(subject.network.name, ())
    counted = counted_in(spans)
    batcher = Batcher(max_batch=subject.network.max_batch, queue_delay_us=subject.network.queue_delay_us)
    return LoadRow(
        model=subject.config.name,
        engine=subject.engine,
        url_scheme=subject.url.scheme,
        loop="closed" if isinstance(loop, ClosedLoop) else "open",
        batch=batch,
        concurrency=loop.concurrency if isinstance(loop, ClosedLoop) else None,
        rate_per_s=loop.rate_per_s if isinstance(loop, OpenLoop) else None,
        throughput=figure_from_repeats([rate * batch for rate in rates_per_s], "images/s"),
        latencies=latencies.latencies(),
        histogram=outcome.latencies.decode("ascii"),
        requests=outcome.requests,
        failed=outcome.failures,
        failed_by_kind=dict(outcome.failed),
        late_p99_ms=_late_p99_ms(outcome),
        client_cpu_share=outcome.cpu_share,
        client_away_share=outcome.away_share,
        request_bytes=request_bytes,
        executions_by_batch=dict(counted.executions_by_batch),
        batching=batching_words(
            counted.executions_by_batch,
            batch=batch,
            batcher=batcher,
            loop=loop,
            execution_ms=_execution_ms(counted),
        ),
        verdict=verdict_of(outcome, loop, spans),
    )


def verdict_of(outcome: Outcome, loop: Loop | None = None, spans: Sequence[Span] = ()) -> Verdict:
    """Everything that speaks against a load, the worst first. `spans` are of the model that computes."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in outcome.failed.items())
    failed = errors_reason(outcome.failures, outcome.requests, f"{outcome.failure} ({kinds})")
    return verdict_from(
        _gone_reason(outcome, was_restarted=was_restarted(outcome, spans)),
        failed,
        answers_reason(outcome.wrong, outcome.checked, outcome.fault),
        _overload_reason(outcome, loop),
        _held_back_reason(outcome),
        late_reason(_late_p99_ms(outcome)),
        starved_reason(outcome.away_share),
        saturation_reason(outcome.cpu_share),
        _interrupted_reason(outcome),
        samples_reason(outcome.requests - outcome.failures, "answers", "Measure for longer: --seconds."),
    )


def was_restarted(outcome: Outcome, spans: Sequence[Span]) -> bool:
    """Whether another server counted than the one that was asked at first."""
    answered = outcome.requests - outcome.failures
    return any(began_anew(before, after) for before, after in spans) or forgot_some(spans, answered)


def _gone_reason(outcome: Outcome, *, was_restarted: bool) -> Reason | None:
    if outcome.server_gone:
        found = f"it answered nothing any more, after {outcome.measured_s:.1f} s"
        found += f", such as: {outcome.failure.rstrip('.')}" if outcome.failure else ""
    elif was_restarted:
        found = "its statistics do not hold all that it answered: it was started again in the middle"
    else:
        return None
    return Reason(rule="server gone", found=found, advice="See the server's log, and measure again.")


def _overload_reason(outcome: Outcome, loop: Loop | None) -> Reason | None:
    """Where the queue grows as long as the run lasts, a latency says how long that was, and nothing else."""
    rates_per_s = outcome.rates_per_s()
    if not isinstance(loop, OpenLoop) or outcome.failures or outcome.interrupted or not rates_per_s:
        return None
    answered_per_s = sum(rates_per_s) / len(rates_per_s)
    by_chance = 3 / sqrt(
        loop.rate_per_s * outcome.measured_s
    )  # of Poisson arrivals, three in a thousand runs
    if answered_per_s >= (1 - max(MOST_UNANSWERED, by_chance)) * loop.rate_per_s:
        return None
    return Reason(
        rule="server overloaded",
        found=f"{answered_per_s:.4g} requests/s were answered of {loop.rate_per_s:.4g} that were sent",
        advice="Ask for a lower rate: the queue grows, and latencies with it, as long as the run lasts.",
    )


def _held_back_reason(outcome: Outcome) -> Reason | None:
    if not outcome.held_back:
        return None
    return Reason(
        rule="generator late",
        found=f"{outcome.held_back:,} requests waited because too many were open",
        advice="Ask for a lower rate: the server does not keep up.",
    )


def _interrupted_reason(outcome: Outcome) -> Reason | None:
    if not outcome.interrupted:
        return None
    return Reason(
        rule="interrupted",
        found=f"stopped after {outcome.measured_s:.1f} s of measuring",
        advice="Let it run to the end.",
    )


def _late_p99_ms(outcome: Outcome) -> float | None:
    """Of whatever number of requests: a rule that asks for more samples would let a late generator pass."""
    if outcome.late is None:
        return None
    late = _histogram(outcome.late)
    return late.percentile_ms(99) if late.samples else None


def _execution_ms(counted: ModelStatistics) -> float | None:
    """What a request was computed for, which is its execution where no other was batched with it."""
    return counted.compute_infer_ns / counted.requests / 1e6 if counted.requests else None


def _histogram(encoded: bytes) -> LatencyHistogram:
    histogram = LatencyHistogram()
    histogram.add(encoded)
    return histogram
