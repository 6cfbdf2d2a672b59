"""The closed and the open loop of one process: send requests, count replies, never delay a send by counting.

The transport's own thread notes when a reply came, and in a closed loop sends the next request at once, as
waking up another thread would take time. One other thread does all the rest. In an open loop a latency begins
when the request was planned to be sent: a slow server delays no later request, and every request that meets a
stall shows it (no coordinated omission, in Gil Tene's words).
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from alexnet_clients import InferReply, ModelStatistics
from alexnet_model.errors import ClientError

from ..figures.percentiles import LatencyHistogram
from .plans import ClosedLoop, OpenLoop, Segment
from .results import SERVER_GONE, LoadResult, Span
from .traffic import Traffic

# After an error, a closed loop sends the next request only after this pause: a dead server would otherwise
# get a hundred thousand requests a second.
PAUSE_S = 0.05
GIVE_UP_S = 5.0  # a server that is not there for this long is gone; one that is being restarted takes longer
_STATISTICS_TIMEOUT_S = 5.0
_NAP_S = 0.01  # a closed loop goes on by itself: waking up for every reply would take the server's cores
# Sleeping ends late by about this much, so the rest of a wait is spent in a busy loop. The loop holds
# Python's lock, so a reply's end may be noted late by as much.
_BUSY_WAIT_S = 0.0001
_CHECK_S = 0.01  # between two checks of the stall monitor
# Waking up later than this is a stall. Less is ordinary: a server shares the core, or another thread of this
# process holds Python's lock.
_ORDINARY_DELAY_S = 0.005


@dataclass(frozen=True, slots=True)
class Completion:
    """A request that has ended, with a reply or an error.

    `has_successor` says that the next request of its closed loop has been sent already.
    """

    index: int  # which of the distinct requests
    from_s: float  # when its latency begins
    ended_s: float
    future: Future[InferReply]
    has_successor: bool = False


Completions: TypeAlias = SimpleQueue[Completion | None]  # None wakes up the waiting thread


@dataclass(slots=True)
class _Sent:
    index: int
    from_s: float
    is_under_way: bool = False


class LoadRun:
    """One segment of a load. `result` runs it, once; `stop` may be called by another thread."""

    def __init__(self, segment: Segment, traffic: Traffic, clock: Clock | None = None) -> None:
        self._segment = segment
        self._traffic = traffic
        self._clock = clock or Clock()
        self._tally = _Tally(segment, traffic)
        self._completions: Completions = SimpleQueue()
        self._open: set[Future[InferReply]] = set()
        self._is_closed_loop = isinstance(segment.loop, ClosedLoop)
        self._slots_taken = 0  # of a closed loop: each by a request in flight or a pause
        self._paused_until_s: deque[float] = deque()
        self._stopped = False
        self._interrupted = False
        self._cpu_share = self._stalled_share = 0.0
        self._statistics_before: dict[str, Future[ModelStatistics]] = {}

    def stop(self) -> None:
        """Send no more requests and wait for no more replies; the result is what was counted until now."""
        self._interrupted = self._stopped = True
        self._completions.put(None)

    def result(self) -> LoadResult:
        """Run burn-in and repeats, and wait for the replies still to come. Ctrl-C works as `stop` does."""
        until_s = self._segment.ends_s
        try:
            self._send_all()
        except KeyboardInterrupt:
            self._interrupted = self._stopped = True
        if self._stopped:
            until_s = self._clock.now_s()
        try:
            self._wait_for_open_requests()
        except KeyboardInterrupt:
            self._interrupted = True
        finally:
            for future in list(self._open):
                future.cancel()
        statistics = self._read_statistics()
        return self._tally.result(
            measured_until_s=until_s,
            cpu_share=self._cpu_share,
            stalled_share=self._stalled_share,
            interrupted=self._interrupted,
            statistics=statistics,
        )

    def _send_all(self) -> None:
        segment, loop = self._segment, self._segment.loop
        times_s = segment.send_times(loop.rate_per_s).tolist() if isinstance(loop, OpenLoop) else []
        burning_in = bisect_left(times_s, segment.measured_from_s)
        self._wait_until(segment.starts_s)
        self._send_until(segment.measured_from_s, times_s[:burning_in])
        self._statistics_before = self._request_statistics()  # without waiting, so that no send is late
        cpu_s, started_s = self._clock.cpu_s(), self._clock.now_s()
        with self._clock.monitor_stalls() as stalled_s:
            try:
                self._send_until(segment.ends_s, times_s[burning_in:])
            finally:
                if (taken_s := self._clock.now_s() - started_s) > 0:
                    self._cpu_share = (self._clock.cpu_s() - cpu_s) / taken_s
                    self._stalled_share = stalled_s() / taken_s

    def _send_until(self, until_s: float, times_s: Sequence[float]) -> None:
        if isinstance(self._segment.loop, ClosedLoop):
            self._closed_loop(self._segment.loop.concurrency, until_s)
        else:
            with self._clock.realtime_priority():
                self._open_loop(times_s)
                self._wait_until(until_s)

    def _closed_loop(self, concurrency: int, until_s: float) -> None:
        """Fill every free slot. After a reply `_note` fills its slot; after an error the slot pauses."""
        paused = self._paused_until_s
        while not self._stopped and (now_s := self._clock.now_s()) < until_s:
            while paused and paused[0] <= now_s:
                paused.popleft()
                self._slots_taken -= 1
            while self._slots_taken < concurrency:
                self._slots_taken += 1
                self._send(self._clock.now_s())
            next_s = min(until_s, paused[0]) if paused else until_s
            completion = self._clock.wait(self._completions, next_s, nap_s=_NAP_S)
            if completion is None:
                continue
            if not self._count(completion):
                paused.append(completion.ended_s + PAUSE_S)
            elif not completion.has_successor:
                self._slots_taken -= 1

    def _open_loop(self, times_s: Sequence[float]) -> None:
        for planned_s in times_s:
            self._wait_until(planned_s)
            if len(self._open) >= self._traffic.most_open:
                self._tally.held_back += 1
                while len(self._open) >= self._traffic.most_open and not self._stopped:
                    self._wait_until(self._clock.now_s() + self._traffic.timeout_s, completions=1)
            if self._stopped:
                return
            self._tally.count_send_delay(planned_s, self._clock.now_s())
            self._send(planned_s)

    def _wait_until(self, until_s: float, *, completions: int | None = None) -> None:
        """Count what completes until then, or at most so many completions."""
        while not self._stopped and completions != 0:
            completion = self._clock.wait(self._completions, until_s)
            if completion is None:
                return
            self._count(completion)
            completions = None if completions is None else completions - 1

    def _wait_for_open_requests(self) -> None:
        latest_s = self._clock.now_s() + self._traffic.timeout_s + 1
        while self._open and not self._stopped:
            completion = self._clock.wait(self._completions, latest_s)
            if completion is None:
                break
            self._count(completion)
        if not self._stopped:
            for _ in list(self._open):
                self._tally.count_failure("no reply", "a request did not end at its deadline")

    def _send(self, from_s: float) -> None:
        sent = _Sent(next(self._traffic.indices), from_s)
        message = self._traffic.messages[sent.index]
        future = self._traffic.transport.submit(message, timeout_s=self._traffic.timeout_s)
        self._open.add(future)
        future.add_done_callback(partial(self._note, sent))
        sent.is_under_way = True

    def _note(self, sent: _Sent, future: Future[InferReply]) -> None:
        """Note the end of a request and send its successor. The transport's thread calls this."""
        ended_s = self._clock.now_s()
        self._open.discard(future)
        # The main thread sends the successor of a request that ended inside `submit`: calls would nest here.
        has_successor = (
            self._is_closed_loop
            and sent.is_under_way
            and not self._stopped
            and ended_s < self._segment.ends_s
            and not future.cancelled()
            and future.exception() is None
        )
        if has_successor:
            self._send(self._clock.now_s())
        self._completions.put(Completion(sent.index, sent.from_s, ended_s, future, has_successor))

    def _count(self, completion: Completion) -> bool:
        succeeded = self._tally.count(completion)
        self._stopped = self._stopped or self._tally.server_gone
        return succeeded

    def _request_statistics(self) -> dict[str, Future[ModelStatistics]]:
        timeout_s = min(self._traffic.timeout_s, _STATISTICS_TIMEOUT_S)
        return {
            model: self._traffic.transport.statistics(model, timeout_s=timeout_s)
            for model in self._segment.statistics_of
        }

    def _read_statistics(self) -> dict[str, tuple[Span, ...]]:
        """Return the statistics of the models that the server reported both before and after."""
        found: dict[str, tuple[Span, ...]] = {}
        for model, after in self._request_statistics().items():
            if model in self._statistics_before:
                try:
                    found[model] = ((self._statistics_before[model].result(), after.result()),)
                except SERVER_GONE:
                    self._tally.server_gone = True
                except ClientError:
                    continue  # the server does not report statistics
        return found


class _Tally:
    """Count the completions of one segment."""

    def __init__(self, segment: Segment, traffic: Traffic) -> None:
        self._segment = segment
        self._traffic = traffic
        self._latencies = LatencyHistogram()
        self._send_delays = LatencyHistogram()
        self._completed = [0] * segment.timing.repeats
        self._failed: Counter[str] = Counter()
        self._failure = ""
        self._requests = self._checked = self._wrong = 0
        self._wrong_example = ""
        self._gone_since_s: float | None = None
        self.held_back = 0
        self.server_gone = False

    def count(self, completion: Completion) -> bool:
        """Count a completion. Returns False for an error; a cancelled request is not counted."""
        if completion.future.cancelled():
            return True
        error = completion.future.exception()
        self._watch_server(error, completion.ended_s)
        segment = self._segment
        is_measured = segment.measured_from_s <= completion.from_s < segment.ends_s
        if error is not None:
            if is_measured:
                self.count_failure(type(error).__name__, str(error))
            return False
        if is_measured:
            self._requests += 1
            self._latencies.record(1e3 * (completion.ended_s - completion.from_s))
            if (self._requests - 1) % self._traffic.check_every == 0:
                self._check(completion.index, completion.future.result())
        if segment.measured_from_s <= completion.ended_s < segment.ends_s:
            repeat = int((completion.ended_s - segment.measured_from_s) / segment.timing.seconds)
            self._completed[min(repeat, len(self._completed) - 1)] += 1
        return True

    def count_failure(self, kind: str, example: str) -> None:
        self._requests += 1
        self._failed[kind] += 1
        self._failure = self._failure or example

    def count_send_delay(self, planned_s: float, sent_s: float) -> None:
        if planned_s >= self._segment.measured_from_s:
            self._send_delays.record(1e3 * (sent_s - planned_s))

    def result(self, *, measured_until_s: float, **known: Any) -> LoadResult:
        """Return the counts, with the other fields of a result that the caller knows."""
        segment = self._segment
        return LoadResult(
            latencies=self._latencies.encoded(),
            send_delays=self._send_delays.encoded() if isinstance(segment.loop, OpenLoop) else None,
            completed=tuple(self._completed),
            requests=self._requests,
            failed=dict(self._failed),
            failure=self._failure,
            checked=self._checked,
            wrong=self._wrong,
            wrong_example=self._wrong_example,
            held_back=self.held_back,
            measured_s=max(0.0, min(measured_until_s, segment.ends_s) - segment.measured_from_s),
            repeat_s=segment.timing.seconds,
            server_gone=self.server_gone,
            **known,
        )

    def _watch_server(self, error: BaseException | None, now_s: float) -> None:
        if not isinstance(error, SERVER_GONE):
            self._gone_since_s = None
            return
        if self._gone_since_s is None:
            self._gone_since_s = now_s
        self.server_gone = now_s - self._gone_since_s > GIVE_UP_S

    def _check(self, index: int, reply: InferReply) -> None:
        if self._traffic.expected is None:
            return
        self._checked += 1
        if error := self._traffic.expected.error_in(index, reply):
            self._wrong += 1
            self._wrong_example = self._wrong_example or error


class Clock:
    """Time as a load sees it. Tests replace it by a clock that events advance."""

    def now_s(self) -> float:
        """Return the monotonic time, which all processes of a machine share."""
        return time.monotonic()

    def cpu_s(self) -> float:
        """Return the processor time of this process, all threads together."""
        return time.process_time()

    @contextmanager
    def monitor_stalls(self) -> Iterator[Callable[[], float]]:
        """Measure how long the system keeps this process from running; yields a function that returns it.

        A thread sleeps briefly, again and again, and adds up how much too late it wakes. An open loop knows
        how late it sent each request. A closed loop has no plan to be late against: if another process, a
        limit on processor time or a stop keeps it from running, it sends less and only looks idle.
        """
        stalled_s = 0.0
        ended = threading.Event()

        def monitor() -> None:
            nonlocal stalled_s
            while not ended.is_set():
                due_s = time.monotonic() + _CHECK_S
                ended.wait(_CHECK_S)
                late_s = time.monotonic() - due_s
                if late_s > _ORDINARY_DELAY_S:
                    stalled_s += late_s

        thread = threading.Thread(target=monitor, name="stall monitor", daemon=True)
        thread.start()
        try:
            yield lambda: stalled_s
        finally:
            ended.set()
            thread.join()

    @contextmanager
    def realtime_priority(self) -> Iterator[None]:
        """Schedule this process inside the `with` as soon as it is due, where the system allows that.

        Without it a server on the same cores delays sends by milliseconds. It needs root or a limit
        (`ulimit -r`); otherwise nothing changes. All threads get the priority, since one that holds Python's
        lock would block the others. Threads started inside inherit it.
        """
        usual, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
        _schedule_all_threads(os.SCHED_FIFO, os.sched_param(1))
        try:
            yield
        finally:
            _schedule_all_threads(usual, parameter)

    def wait(self, completions: Completions, until_s: float, *, nap_s: float = 0.0) -> Completion | None:
        """Wait for the next completion.

        Args:
            completions: The queue that the transport's thread fills.
            until_s: When to return, even if completions are waiting.
            nap_s: How long to sleep first. A completion then waits that long, but waking up costs less
                processor time.

        Returns:
            The completion; None at `until_s` or after a wake-up.
        """
        if nap_s and completions.empty():
            time.sleep(max(0.0, min(nap_s, until_s - time.monotonic() - _BUSY_WAIT_S)))
        sleep_s = until_s - time.monotonic() - _BUSY_WAIT_S
        if sleep_s > 0:
            with suppress(Empty):
                return completions.get(timeout=sleep_s)
        while time.monotonic() < until_s:
            pass
        return None


def _schedule_all_threads(policy: int, parameter: os.sched_param) -> None:
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has ended, or the system does not allow it
            os.sched_setscheduler(int(thread.name), policy, parameter)
