"""What came of a load: counted in one process, added up over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from alexnet_clients import InferReply
from alexnet_model.errors import ConnectionLost, NotReady, Unreachable

from ..figures.percentiles import LatencyHistogram
from .answers import Expected
from .plans import OpenLoop, Part
from .server_counts import Span
from .waiting import Answer

# A server that answers nothing but these for so long is gone. One that is started again takes longer.
GONE = (Unreachable, ConnectionLost, NotReady)
GIVE_UP_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Counts are of requests that were sent while it was measured; `answered` is by when the answer came."""

    latencies: bytes  # LatencyHistogram's encoded form
    late: bytes | None  # of an open loop: how much later than planned each request was sent
    answered: tuple[int, ...]  # in each repeat
    requests: int
    failed: Mapping[str, int]  # by the error's name
    failure: str  # an example
    checked: int
    wrong: int
    fault: str  # an example
    cpu_share: float  # of one core, the busiest process
    away_share: float  # of the time, the process that was kept from running the most
    held_back: int  # sends that waited because too many requests were open
    measured_s: float
    repeat_s: float
    server_gone: bool = False
    interrupted: bool = False
    statistics: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)  # a model, a stretch of time

    @property
    def failures(self) -> int:
        return sum(self.failed.values())

    def rates_per_s(self) -> tuple[float, ...]:
        """Answers a second in each whole repeat; where there is none, in what there is of the first."""
        whole = int(self.measured_s / self.repeat_s + 1e-9)
        if whole:
            return tuple(count / self.repeat_s for count in self.answered[:whole])
        return (self.answered[0] / self.measured_s,) if self.measured_s > 0 else ()


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    """One outcome of what several processes did at the same time."""
    return replace(
        _summed(outcomes),
        answered=tuple(sum(counts) for counts in zip(*(o.answered for o in outcomes), strict=True)),
        cpu_share=max(outcome.cpu_share for outcome in outcomes),
        away_share=max(outcome.away_share for outcome in outcomes),
        measured_s=min(outcome.measured_s for outcome in outcomes),
    )


def in_turn(outcomes: Sequence[Outcome]) -> Outcome:
    """One outcome of the same load at several times, with whatever lay between them left out."""
    measured_s = sum(outcome.measured_s for outcome in outcomes)

    def mean(share: Callable[[Outcome], float]) -> float:
        return sum(share(o) * o.measured_s for o in outcomes) / measured_s if measured_s else 0.0

    return replace(
        _summed(outcomes),
        answered=tuple(count for outcome in outcomes for count in outcome.answered),
        cpu_share=mean(lambda outcome: outcome.cpu_share),
        away_share=mean(lambda outcome: outcome.away_share),
        measured_s=measured_s,
    )


def _summed(outcomes: Sequence[Outcome]) -> Outcome:
    """What adds up the same way, at one time or in turn; the rest is the first's."""
    failed: Counter[str] = Counter()
    statistics: dict[str, tuple[Span, ...]] = {}
    for outcome in outcomes:
        failed.update(outcome.failed)
        for model, spans in outcome.statistics.items():
            statistics[model] = (*statistics.get(model, ()), *spans)
    late = [outcome.late for outcome in outcomes if outcome.late is not None]
    return replace(
        outcomes[0],
        latencies=_added(outcome.latencies for outcome in outcomes),
        late=_added(late) if late else None,
        requests=sum(outcome.requests for outcome in outcomes),
        failed=dict(failed),
        failure=next((outcome.failure for outcome in outcomes if outcome.failure), ""),
        checked=sum(outcome.checked for outcome in outcomes),
        wrong=sum(outcome.wrong for outcome in outcomes),
        fault=next((outcome.fault for outcome in outcomes if outcome.fault), ""),
        held_back=sum(outcome.held_back for outcome in outcomes),
        server_gone=any(outcome.server_gone for outcome in outcomes),
        interrupted=any(outcome.interrupted for outcome in outcomes),
        statistics=statistics,
    )


class Tally:
    """Counts the answers of one process."""

    def __init__(self, part: Part, expected: Expected, check_every: int) -> None:
        self._part = part
        self._expected = expected
        self._check_every = check_every
        self._latencies = LatencyHistogram()
        self._late = LatencyHistogram()
        self._answered = [0] * part.timing.repeats
        self._failed: Counter[str] = Counter()
        self._failure = ""
        self._requests = self._checked = self._wrong = 0
        self._fault = ""
        self._silent_since_s: float | None = None
        self.held_back = 0
        self.is_gone = False

    def count(self, answer: Answer) -> bool:
        """Whether it was answered. A request that was cancelled never was one."""
        if answer.future.cancelled():
            return True
        error = answer.future.exception()
        self._watch(error, answer.ended_s)
        measured = self._part.measured_from_s <= answer.from_s < self._part.ends_s
        if error is not None:
            if measured:
                self.count_failure(type(error).__name__, str(error))
            return False
        if measured:
            self._requests += 1
            self._latencies.record(1e3 * (answer.ended_s - answer.from_s))
            if (self._requests - 1) % self._check_every == 0:
                self._check(answer.index, answer.future.result())
        if self._part.measured_from_s <= answer.ended_s < self._part.ends_s:
            since_s = answer.ended_s - self._part.measured_from_s
            self._answered[min(int(since_s / self._part.timing.seconds), len(self._answered) - 1)] += 1
        return True

    def count_failure(self, kind: str, example: str) -> None:
        self._requests += 1
        self._failed[kind] += 1
        self._failure = self._failure or example

    def count_late(self, intended_s: float, sent_s: float) -> None:
        if intended_s >= self._part.measured_from_s:
            self._late.record(1e3 * (sent_s - intended_s))

    def outcome(
        self, *, measured_until_s: float, cpu_share: float, away_share: float, interrupted: bool
    ) -> Outcome:
        """All of it; statistics are the caller's to add."""
        is_open = isinstance(self._part.loop, OpenLoop)
        return Outcome(
            latencies=self._latencies.encoded(),
            late=self._late.encoded() if is_open else None,
            answered=tuple(self._answered),
            requests=self._requests,
            failed=dict(self._failed),
            failure=self._failure,
            checked=self._checked,
            wrong=self._wrong,
            fault=self._fault,
            cpu_share=cpu_share,
            away_share=away_share,
            held_back=self.held_back,
            measured_s=max(0.0, min(measured_until_s, self._part.ends_s) - self._part.measured_from_s),
            repeat_s=self._part.timing.seconds,
            server_gone=self.is_gone,
            interrupted=interrupted,
        )

    def _watch(self, error: BaseException | None, now_s: float) -> None:
        """Whether the server has been away for too long."""
        if not isinstance(error, GONE):
            self._silent_since_s = None
            return
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        self.is_gone = now_s - self._silent_since_s > GIVE_UP_S

    def _check(self, index: int, reply: InferReply) -> None:
        self._checked += 1
        fault = self._expected.fault(index, reply)
        if fault:
            self._wrong += 1
            self._fault = self._fault or fault


def _added(encoded: Iterable[bytes]) -> bytes:
    total = LatencyHistogram()
    for one in encoded:
        total.add(one)
    return total.encoded()
