"""Things whose speed can be measured a slice of time at a time: a runner in process, a model on a server.

The inputs rotate, so that no cache holds the same images ready. A served slice is measured while all its
requests are in flight: filling and draining the pipeline is neither for nor against the server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Protocol

import numpy as np

from alexnet_clients import InferReply, InferRequest, Transport
from alexnet_model.contract import Contract, Uint8Array

from .records import Case

Clock = Callable[[], float]


@dataclass(frozen=True)
class Slice:
    """What happened in one stretch of time."""

    images: int
    seconds: float
    latencies_ms: tuple[float, ...]
    client_cpu_share: float | None = None  # of one core

    @property
    def throughput_per_s(self) -> float:
        return self.images / self.seconds


class Lane(Protocol):
    @property
    def case(self) -> Case: ...

    def run(self, seconds: float) -> Slice:
        """Work for about so long, and at least once. Nothing runs before or after."""


class Answers(Protocol):
    """As much of a Runner as a lane needs."""

    def infer(self, images: Uint8Array) -> Any: ...


class InProcessLane:
    def __init__(
        self, case: Case, runner: Answers, images: Uint8Array, *, clock: Clock = time.perf_counter
    ) -> None:
        """`images` are `(N, 224, 224, 3)`, N a multiple of the batch."""
        self.case = case
        self._runner = runner
        self._batches = cycle(batches_of(images, case.batch))
        self._clock = clock

    def run(self, seconds: float) -> Slice:
        latencies_ms: list[float] = []
        started = now = self._clock()
        while not latencies_ms or now - started < seconds:
            self._runner.infer(next(self._batches))
            before, now = now, self._clock()
            latencies_ms.append(1e3 * (now - before))
        return Slice(len(latencies_ms) * self.case.batch, now - started, tuple(latencies_ms))


class ServedLane:
    """A closed loop: as soon as a request is answered the next is sent, `in_flight` of them at any time."""

    def __init__(
        self,
        case: Case,
        transport: Transport,
        model: str,
        images: Uint8Array,
        *,
        contract: Contract,
        timeout_s: float = 60.0,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.case = case
        self._transport = transport
        self._timeout_s = timeout_s
        self._clock = clock
        requests = (
            InferRequest(
                model=model,
                inputs={contract.input_name: batch},
                outputs=(contract.probabilities_name,),
            )
            for batch in batches_of(images, case.batch)
        )
        # Built beforehand: on the cores that the server computes on, every copy here is lost to it.
        self._messages = cycle([transport.prepare(request) for request in requests])

    def run(self, seconds: float) -> Slice:
        """Raises `ClientError` if any request was not answered: a rate over errors would be no figure."""
        in_flight = self.case.in_flight
        slots = threading.Semaphore(in_flight - 1)  # one is taken before each wait
        futures: list[Future[InferReply]] = []
        ends_s: list[float] = []  # when each answer came

        def answered(_: Future[InferReply]) -> None:
            ends_s.append(self._clock())
            slots.release()

        cpu_started, started = time.process_time(), time.perf_counter()
        try:
            # The first answers end the filling; at least as many again are measured.
            while len(ends_s) < 2 * in_flight or self._clock() - ends_s[in_flight - 1] < seconds:
                futures.append(self._transport.submit(next(self._messages), timeout_s=self._timeout_s))
                futures[-1].add_done_callback(answered)
                slots.acquire()
            replies = [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
        cpu_share = (time.process_time() - cpu_started) / (time.perf_counter() - started)
        latencies_ms = [reply.latency_ms for reply in replies]
        answers, measured_s = steady_part(ends_s, in_flight, seconds, quickest_s=min(latencies_ms) / 1e3)
        return Slice(
            answers * self.case.batch,
            measured_s,
            tuple(latencies_ms[in_flight : in_flight + answers]),
            cpu_share,
        )


def steady_part(
    ends_s: Sequence[float], in_flight: int, seconds: float, *, quickest_s: float
) -> tuple[int, float]:
    """How many answers came in about so many seconds while the pipeline was full, and in how many exactly.

    Answers come in groups, as the server batched them, so the time runs from the end of a group, in which
    the last of the first requests was answered, to the end of another. `quickest_s` is the shortest time
    that any answer took: what is computed together comes far closer together than that.
    """
    last = len(ends_s) - 1
    group_ends = [i for i in range(last) if ends_s[i + 1] - ends_s[i] > quickest_s / 4] + [last]
    start = next(i for i in group_ends if i >= in_flight - 1)
    later = [i for i in group_ends if i >= start + in_flight]
    if not later:  # an even stream: from all first requests answered to all next ones answered
        start = in_flight - 1
        later = list(range(start + in_flight, last + 1, in_flight))
    end = max((i for i in later if ends_s[i] - ends_s[start] <= seconds), default=later[0])
    return end - start, ends_s[end] - ends_s[start]


def batches_of(images: Uint8Array, batch: int) -> list[Uint8Array]:
    """At least four batches where there are so many images, and at most 64 images in small ones."""
    pool = images[: max(4 * batch, 64)]
    return [pool[start : start + batch] for start in range(0, len(pool) - batch + 1, batch)]


def pool_of_images(contract: Contract, count: int) -> Uint8Array:
    """Noise of the contract's shape: speed does not depend on what an image shows."""
    shape = (count, *contract.image_shape)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
