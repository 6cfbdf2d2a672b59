"""Things whose speed can be measured a slice of time at a time: a runner in process, a model on a server.

The inputs rotate, so that no cache holds the same pictures ready. A served slice is measured while all its
requests are in flight: filling and draining the pipeline is neither for nor against the server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
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

    pictures: int
    seconds: float
    latencies_ms: tuple[float, ...]
    client_cpu_share: float | None = None  # of one core

    @property
    def throughput_per_s(self) -> float:
        return self.pictures / self.seconds


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
        self._batches = rotating(images, case.batch)
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
        self._requests = (
            InferRequest(
                model=model,
                images=batch,
                input_name=contract.input_name,
                outputs=(contract.probabilities_name,),
            )
            for batch in rotating(images, case.batch)
        )

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
            # The first answers end the filling; at least one more is measured.
            while len(ends_s) <= in_flight or self._clock() - ends_s[in_flight - 1] < seconds:
                futures.append(self._transport.submit(next(self._requests), timeout_s=self._timeout_s))
                futures[-1].add_done_callback(answered)
                slots.acquire()
            replies = [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
        cpu_share = (time.process_time() - cpu_started) / (time.perf_counter() - started)
        answers, measured_s = steady_part(ends_s, in_flight, seconds)
        return Slice(
            answers * self.case.batch,
            measured_s,
            tuple(reply.latency_ms for reply in replies[in_flight : in_flight + answers]),
            cpu_share,
        )


def steady_part(ends_s: Sequence[float], in_flight: int, seconds: float) -> tuple[int, float]:
    """How many answers came in about so many seconds while the pipeline was full, and in how many exactly.

    Answers come in groups, as the server batched them: the time runs from the end of a group, when every
    one of the first requests is answered, to the last answer before the time is up, the end of another.
    """
    full_s, later_s = ends_s[in_flight - 1], ends_s[in_flight:]
    counted_s = [end for end in later_s if end - full_s <= seconds] or later_s[:1]
    return len(counted_s), counted_s[-1] - full_s


def rotating(images: Uint8Array, batch: int) -> Iterator[Uint8Array]:
    """Batches from a pool of pictures, one after the other and over again, without copying."""
    return cycle([images[start : start + batch] for start in range(0, len(images) - batch + 1, batch)])


def pool_of_images(contract: Contract, count: int) -> Uint8Array:
    """Noise of the contract's shape: speed does not depend on what a picture shows."""
    shape = (count, *contract.picture_shape)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
