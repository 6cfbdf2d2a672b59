"""The two loops of one process: send, count what comes back, and never let counting delay a send.

The transport's own thread notes when an answer came, and in the closed loop sends the next request, since
another thread would first have to wake up. One thread does all the rest. In the open loop a latency runs from
when its request was to be sent: a slow server delays none that follows, and is spared none (what Gil Tene
calls coordinated omission).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from queue import SimpleQueue

from alexnet_clients import InferReply, Message, ModelStatistics, Transport
from alexnet_model.errors import ClientError

from .answers import Expected
from .load_results import GONE, Outcome, Tally
from .plans import MOST_OPEN, ClosedLoop, OpenLoop, Part, arrivals
from .server_counts import Span
from .waiting import Answer, Answers, Clock, SystemClock

# Who failed waits so long for its next turn: a dead server is not asked a hundred thousand times.
PAUSE_S = 0.05
CHECK_EVERY = 49  # odd, so that it meets every one of 64 requests that come round again
_STATISTICS_TIMEOUT_S = 5.0
_NAP_S = 0.01  # a closed loop goes on by itself: to be woken by each answer would cost the server its cores


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What one process asks with: messages that come round again, and what they are answered with."""

    transport: Transport
    messages: Sequence[Message]
    expected: Expected
    timeout_s: float
    check_every: int = CHECK_EVERY
    most_open: int = MOST_OPEN

    def indices(self) -> Iterator[int]:
        return cycle(range(len(self.messages)))


@dataclass(slots=True)
class _Sent:
    index: int
    from_s: float
    is_under_way: bool = False


class LoadRun:
    """One part of a load, run once by `outcome`. `stop` may be called by another thread."""

    def __init__(
        self, part: Part, asking: Asking, indices: Iterator[int], clock: Clock | None = None
    ) -> None:
        self._part = part
        self._asking = asking
        self._indices = indices
        self._clock = clock or SystemClock()
        self._tally = Tally(part, asking.expected, asking.check_every)
        self._answers: Answers = SimpleQueue()
        self._open: set[Future[InferReply]] = set()
        self._is_closed_loop = isinstance(part.loop, ClosedLoop)
        self._taken = 0  # of a closed loop's places: by an open request or by a pause
        self._paused_until_s: deque[float] = deque()
        self._stopped = False
        self._interrupted = False
        self._cpu_share = self._away_share = 0.0
        self._before: dict[str, Future[ModelStatistics]] = {}

    def stop(self) -> None:
        """Send no more, wait for nothing; what was counted is the outcome."""
        self._interrupted = self._stopped = True
        self._answers.put(None)

    def outcome(self) -> Outcome:
        """Run it: burn-in, the repeats, and the answers that are still to come. Ctrl-C is `stop`."""
        until_s = self._part.ends_s
        try:
            self._send_all()
        except KeyboardInterrupt:
            self._interrupted = self._stopped = True
        if self._stopped:
            until_s = self._clock.now_s()
        try:
            self._wait_for_the_rest()
        except KeyboardInterrupt:
            self._interrupted = True
        finally:
            for future in list(self._open):
                future.cancel()
        outcome = self._tally.outcome(
            measured_until_s=until_s,
            cpu_share=self._cpu_share,
            away_share=self._away_share,
            interrupted=self._interrupted,
        )
        return self._with_statistics(outcome)

    def _send_all(self) -> None:
        part, loop = self._part, self._part.loop
        times_s = arrivals(part, loop.rate_per_s).tolist() if isinstance(loop, OpenLoop) else []
        burning_in = bisect_left(times_s, part.measured_from_s)
        self._wait_until(part.starts_s)
        self._send_until(part.measured_from_s, times_s[:burning_in])
        # Asked for without waiting: whatever is sent next is in time.
        self._before = self._ask_statistics()
        cpu_s, started_s = self._clock.cpu_s(), self._clock.now_s()
        with self._clock.watched() as watch:
            try:
                self._send_until(part.ends_s, times_s[burning_in:])
            finally:
                if (taken_s := self._clock.now_s() - started_s) > 0:
                    self._cpu_share = (self._clock.cpu_s() - cpu_s) / taken_s
                    self._away_share = watch.away_s / taken_s

    def _send_until(self, until_s: float, times_s: Sequence[float]) -> None:
        if isinstance(self._part.loop, ClosedLoop):
            self._closed_loop(self._part.loop.concurrency, until_s)
        else:
            with self._clock.first_in_line():
                self._open_loop(times_s)
                self._wait_until(until_s)

    def _closed_loop(self, concurrency: int, until_s: float) -> None:
        """Fill what is not taken; every answer's place is taken by `_note`, but for the failed ones."""
        paused = self._paused_until_s
        while not self._stopped and (now_s := self._clock.now_s()) < until_s:
            while paused and paused[0] <= now_s:
                paused.popleft()
                self._taken -= 1
            while self._taken < concurrency:
                self._taken += 1
                self._send(self._clock.now_s())
            next_s = min(until_s, paused[0]) if paused else until_s
            answer = self._clock.next(self._answers, next_s, nap_s=_NAP_S)
            if answer is None:
                continue
            if not self._count(answer):
                paused.append(answer.ended_s + PAUSE_S)
            elif not answer.is_followed:
                self._taken -= 1

    def _open_loop(self, times_s: Sequence[float]) -> None:
        for intended_s in times_s:
            self._wait_until(intended_s)
            if len(self._open) >= self._asking.most_open:
                self._tally.held_back += 1
                while len(self._open) >= self._asking.most_open and not self._stopped:
                    self._wait_until(self._clock.now_s() + self._asking.timeout_s, answers=1)
            if self._stopped:
                return
            self._tally.count_late(intended_s, self._clock.now_s())
            self._send(intended_s)

    def _wait_until(self, until_s: float, *, answers: int | None = None) -> None:
        """Count what comes until then, or so many answers at the most."""
        while not self._stopped and answers != 0:
            answer = self._clock.next(self._answers, until_s)
            if answer is None:
                return
            self._count(answer)
            answers = None if answers is None else answers - 1

    def _wait_for_the_rest(self) -> None:
        latest_s = self._clock.now_s() + self._asking.timeout_s + 1
        while self._open and not self._stopped:
            answer = self._clock.next(self._answers, latest_s)
            if answer is None:
                break
            self._count(answer)
        if not self._stopped:
            for _ in list(self._open):
                self._tally.count_failure("no answer", "a request that outlived its deadline")

    def _send(self, from_s: float) -> None:
        sent = _Sent(next(self._indices), from_s)
        message = self._asking.messages[sent.index]
        future = self._asking.transport.submit(message, timeout_s=self._asking.timeout_s)
        self._open.add(future)
        future.add_done_callback(partial(self._note, sent))
        sent.is_under_way = True

    def _note(self, sent: _Sent, future: Future[InferReply]) -> None:
        """By the transport's thread: the next request of a closed loop waits for no other thread."""
        ended_s = self._clock.now_s()
        self._open.discard(future)
        # One that was answered while it was sent is followed by another from outside, or they would nest.
        is_followed = (
            self._is_closed_loop
            and sent.is_under_way
            and not self._stopped
            and ended_s < self._part.ends_s
            and not future.cancelled()
            and future.exception() is None
        )
        if is_followed:
            self._send(self._clock.now_s())
        self._answers.put(Answer(sent.index, sent.from_s, ended_s, future, is_followed))

    def _count(self, answer: Answer) -> bool:
        answered = self._tally.count(answer)
        self._stopped = self._stopped or self._tally.is_gone
        return answered

    def _ask_statistics(self) -> dict[str, Future[ModelStatistics]]:
        ask = self._asking.transport.statistics
        timeout_s = min(self._asking.timeout_s, _STATISTICS_TIMEOUT_S)
        return {model: ask(model, timeout_s=timeout_s) for model in self._part.statistics_of}

    def _with_statistics(self, outcome: Outcome) -> Outcome:
        """Those of the models of which the server told them before and after; one that is gone tells none."""
        found: dict[str, tuple[Span, ...]] = {}
        server_gone = outcome.server_gone
        for model, after in self._ask_statistics().items():
            if model in self._before:
                try:
                    found[model] = ((self._before[model].result(), after.result()),)
                except GONE:
                    server_gone = True
                except ClientError:
                    continue  # it keeps its statistics to itself
        return replace(outcome, statistics=found, server_gone=server_gone)
