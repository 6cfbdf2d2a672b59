"""From what was counted to a row of a report: figures, batches and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from alexnet_clients import ModelConfig, ModelStatistics, ServerUrl
from alexnet_model.records import PRECISIONS

from ..figures.intervals import figure_from_repeats
from ..figures.percentiles import NEEDED, LatencyHistogram
from ..figures.verdicts import (
    MOST_UNANSWERED,
    Reason,
    Verdict,
    answers_reason,
    errors_reason,
    late_reason,
    saturation_reason,
    verdict_from,
)
from ..reports.schema import Engine, LoadRow
from .batching import Batcher, batching_words, executions_between, was_restarted
from .outcomes import Outcome
from .plans import ClosedLoop, Loop, OpenLoop


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
    def engine(self) -> Engine:
        """In the words of its configuration, as far as they go."""
        parameters = self.network.parameters
        precision = next((p for p in PRECISIONS if p == parameters.get("precision")), None)
        return Engine(
            runtime=self.network.backend or "unknown",
            device=self.device,
            computes_in=parameters.get("computes_in", "unknown"),
            precision=precision,
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One load with its row, and what the server counted meanwhile of each model that took part."""

    row: LoadRow
    outcome: Outcome
    statistics: Mapping[str, tuple[ModelStatistics, ModelStatistics]]

    @property
    def is_over(self) -> bool:
        """Whether it makes no sense to go on to the next load."""
        return self.outcome.interrupted or self.outcome.server_gone


def load_row(
    subject: Subject, loop: Loop, *, batch: int, request_bytes: int, outcome: Outcome
) -> LoadRow | None:
    """The row; None where no request was answered."""
    latencies = _histogram(outcome.latencies)
    rates_per_s = outcome.rates_per_s()
    if not latencies.samples or not rates_per_s:
        return None
    before, after = outcome.statistics.get(subject.network.name, (ModelStatistics(), ModelStatistics()))
    executed = executions_between(before, after)
    batcher = Batcher(max_batch=subject.network.max_batch, queue_delay_us=subject.network.queue_delay_us)
    return LoadRow(
        model=subject.config.name,
        engine=subject.engine,
        url_scheme=subject.url.scheme,
        loop="closed" if isinstance(loop, ClosedLoop) else "open",
        batch=batch,
        concurrency=loop.concurrency if isinstance(loop, ClosedLoop) else None,
        rate_per_s=loop.rate_per_s if isinstance(loop, OpenLoop) else None,
        throughput=figure_from_repeats([rate * batch for rate in rates_per_s], "pictures/s"),
        latencies=latencies.latencies(),
        histogram=outcome.latencies.decode("ascii"),
        requests=outcome.requests,
        failed=outcome.failures,
        failed_by_kind=dict(outcome.failed),
        late_p99_ms=_late_p99_ms(outcome),
        client_cpu_share=outcome.cpu_share,
        request_bytes=request_bytes,
        executions_by_batch=executed,
        batching=batching_words(
            executed, batch=batch, batcher=batcher, loop=loop, execution_ms=_execution_ms(before, after)
        ),
        verdict=verdict_of(outcome, loop, was_restarted=was_restarted(before, after)),
    )


def verdict_of(outcome: Outcome, loop: Loop | None = None, *, was_restarted: bool = False) -> Verdict:
    """Everything that speaks against a load, the worst first."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in outcome.failed.items())
    failed = errors_reason(outcome.failures, outcome.requests, f"{outcome.failure} ({kinds})")
    return verdict_from(
        _gone_reason(outcome, was_restarted=was_restarted),
        failed,
        answers_reason(outcome.wrong, outcome.checked, outcome.fault),
        _overload_reason(outcome, loop),
        _held_back_reason(outcome),
        late_reason(_late_p99_ms(outcome)),
        saturation_reason(outcome.cpu_share),
        _interrupted_reason(outcome),
        _samples_reason(outcome),
    )


def _gone_reason(outcome: Outcome, *, was_restarted: bool) -> Reason | None:
    if outcome.server_gone:
        found = f"it answered nothing any more, after {outcome.measured_s:.1f} s, such as: {outcome.failure}"
    elif was_restarted:
        found = "its statistics began anew: it was started again in the middle"
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


def _samples_reason(outcome: Outcome) -> Reason | None:
    samples = outcome.requests - outcome.failures
    if samples >= NEEDED["p50"]:
        return None
    return Reason(
        rule="too few samples",
        found=f"{samples} answers, where a median needs {NEEDED['p50']}",
        advice="Measure for longer: --seconds.",
    )


def _late_p99_ms(outcome: Outcome) -> float | None:
    """Of whatever number of requests: a rule that asks for more samples would let a late generator pass."""
    if outcome.late is None:
        return None
    late = _histogram(outcome.late)
    return late.percentile_ms(99) if late.samples else None


def _execution_ms(before: ModelStatistics, after: ModelStatistics) -> float | None:
    """What a request was computed for, which is its execution where no other was batched with it."""
    requests = after.requests - before.requests
    if requests <= 0:
        return None
    return (after.compute_infer_ns - before.compute_infer_ns) / requests / 1e6


def _histogram(encoded: bytes) -> LatencyHistogram:
    histogram = LatencyHistogram()
    histogram.add(encoded)
    return histogram
