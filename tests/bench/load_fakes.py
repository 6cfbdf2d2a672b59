"""A simulated server and clock: a load of minutes takes no time, and every run gives the same result."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count
from queue import Empty
from typing import Any

import numpy as np

from alexnet_bench import InProcessGenerator, ServerBench, Timing
from alexnet_bench.loads.loop import Clock, Completion, Completions
from alexnet_bench.loads.traffic import (
    ExpectedReplies,
    Traffic,
    expected_from_replies,
    request_set_from_config,
)
from alexnet_clients import (
    FakeTransport,
    InferReply,
    InferRequest,
    Message,
    ModelConfig,
    ModelStatistics,
    ServerUrl,
)
from alexnet_model.errors import ClientError, ConnectionLost, DeadlineExceeded, Unreachable

MODEL = "alexnet_int8"
URL = ServerUrl.parse("grpc://127.0.0.1:8001")
Event = Callable[[], object]


class VirtualTime(Clock):
    """A clock that only scheduled events advance.

    `wakes_late_s` gives how late a wait ends; `cpu_share` is the processor time that the process uses.
    """

    def __init__(self) -> None:
        self.wakes_late_s: Callable[[float], float] = lambda now_s: 0.0
        self.cpu_share = 0.1
        self.stalled_share = 0.0
        self._now_s = 0.0
        self._events: list[tuple[float, int, Event]] = []
        self._numbers = count()

    def now_s(self) -> float:
        return self._now_s

    def cpu_s(self) -> float:
        return self.cpu_share * self._now_s

    @contextmanager
    def monitor_stalls(self) -> Iterator[Callable[[], float]]:
        since_s = self._now_s
        yield lambda: self.stalled_share * (self._now_s - since_s)

    @contextmanager
    def realtime_priority(self) -> Iterator[None]:
        yield

    def at(self, when_s: float, event: Event) -> None:
        heapq.heappush(self._events, (when_s, next(self._numbers), event))

    def step(self, until_s: float = float("inf")) -> bool:
        """Advance to the next event. Returns False if there is none until then."""
        if not self._events or self._events[0][0] > until_s:
            return False
        when_s, _, event = heapq.heappop(self._events)
        self._now_s = max(self._now_s, when_s)
        event()
        return True

    def wait(self, completions: Completions, until_s: float, *, nap_s: float = 0.0) -> Completion | None:
        while self._now_s < until_s:
            try:
                return completions.get_nowait()
            except Empty:
                if not self.step(until_s):
                    self._now_s = until_s + self.wakes_late_s(until_s)
        return None


class VirtualFuture(Future[InferReply]):
    """A future that advances the clock until it is done, as nothing else does outside of a load."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self._time = time

    def result(self, timeout: float | None = None) -> InferReply:
        while not self.done() and self._time.step():
            pass
        return super().result(0)


class VirtualServer(FakeTransport):
    """A server of one instance, which executes up to `together` waiting requests at once.

    `takes_s` gives the duration of an execution that starts at a time.
    """

    def __init__(self, time: VirtualTime, *, together: int = 1, queue_delay_us: int | None = 0) -> None:
        super().__init__()
        self.time = time
        self.together = together
        self.queue_delay_us = queue_delay_us
        self.takes_s: Callable[[float], float] = lambda now_s: 0.01
        self.refuses: Callable[[float], ClientError | None] = lambda now_s: None
        self.probabilities = np.full(10, 0.1, np.float32)
        self.predict = lambda request: np.tile(self.probabilities, (len(request.images), 1))
        self.is_down = False
        self.submitted = 0
        self.open_at_once = 0
        self.most_open = 0
        self._executions: Counter[int] = Counter()
        self._waiting: deque[tuple[VirtualFuture, InferRequest]] = deque()
        self._executed: list[tuple[VirtualFuture, InferRequest]] = []

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        future = VirtualFuture(self.time)
        now_s = self.time.now_s()
        self.submitted += 1
        self.open_at_once += 1
        self.most_open = max(self.most_open, self.open_at_once)
        future.add_done_callback(lambda _: self._count_out())
        refusal = Unreachable(MODEL, got="connection refused") if self.is_down else self.refuses(now_s)
        if refusal is not None:
            self.time.at(now_s + 0.001, lambda: self._fail(future, refusal))
            return future
        self.time.at(now_s + timeout_s, lambda: self._fail(future, DeadlineExceeded(MODEL, got="nothing")))
        self._waiting.append((future, message.request))
        self._execute()
        return future

    def die(self) -> None:
        """Lose all requests in flight."""
        self.is_down = True
        lost = [*self._waiting, *self._executed]
        self._waiting.clear()
        for future, _ in lost:
            self._fail(future, ConnectionLost(MODEL, got="a reset"))

    def come_back(self) -> None:
        """Start again as another process, whose counters are zero."""
        self.is_down = False
        self._executed = []
        self._executions.clear()

    def _config(self, model: str) -> ModelConfig:
        config = super()._config(model)
        return ModelConfig(**{**vars(config), "queue_delay_us": self.queue_delay_us, "device": "CPU"})

    def _statistics(self, model: str) -> ModelStatistics:
        if self.is_down:
            raise Unreachable(MODEL, got="connection refused")
        executions = sum(self._executions.values())
        images = sum(size * times for size, times in self._executions.items())
        return ModelStatistics(
            requests=images,
            images=images,
            executions=executions,
            compute_infer_ns=round(1e9 * images * self.takes_s(self.time.now_s())),
            executions_by_batch=dict(self._executions),
        )

    def _execute(self) -> None:
        if self._executed or not self._waiting:
            return
        batch = [self._waiting.popleft() for _ in range(min(self.together, len(self._waiting)))]
        self._executed = batch
        self.time.at(self.time.now_s() + self.takes_s(self.time.now_s()), lambda: self._finish(batch))

    def _finish(self, batch: list[tuple[VirtualFuture, InferRequest]]) -> None:
        if self._executed is not batch or self.is_down:
            return  # it died in between
        self._executed = []
        self._executions[sum(len(request.images) for _, request in batch)] += 1
        # The next execution starts before the replies are read.
        self._execute()
        for future, request in batch:
            if future.set_running_or_notify_cancel() if not future.done() else False:
                outputs = {name: self.predict(request) for name in request.outputs}
                future.set_result(InferReply(outputs=outputs, latency_ms=0.0, request_bytes=150_528))

    def _fail(self, future: VirtualFuture, error: ClientError) -> None:
        if not future.done():
            future.set_running_or_notify_cancel()
            future.set_exception(error)

    def _count_out(self) -> None:
        self.open_at_once -= 1


def expected_of(server: VirtualServer, messages: int = 4) -> ExpectedReplies:
    """Return the right replies to some distinct requests."""
    requests = request_set_from_config(server._config(MODEL), 1)
    replies = [
        InferReply(outputs={"probabilities": server.probabilities[None]}, latency_ms=0, request_bytes=0)
    ] * messages
    return expected_from_replies(requests, replies)


def traffic_of(server: VirtualServer, transport: FakeTransport | None = None, **options: Any) -> Traffic:
    """Return four small requests to the server, or to another transport, that expect the server's replies."""
    pixels = np.zeros((1, 1, 1, 3), np.uint8)
    request = InferRequest(model=MODEL, inputs={"image": pixels}, outputs=("probabilities",))
    options = {"timeout_s": 5.0, "check_every": 10, **options}
    messages = [Message(request, b"") for _ in range(4)]
    return Traffic(transport=transport or server, messages=messages, expected=expected_of(server), **options)


def bench_of(server: VirtualServer, timing: Timing) -> ServerBench:
    """Return a bench that measures the server on its own clock."""
    return ServerBench(server, URL, InProcessGenerator(server, server.time), timing=timing, timeout_s=5.0)
