"""Things whose speed can be measured a slice of time at a time: a runner in process, a model on a server.

The inputs rotate, so that no cache holds the same pictures ready. A slice's time runs from the first
request to the last answer: filling and draining the pipeline counts against the server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
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
    client_cpu_s: float | None = None

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
        slots = threading.Semaphore(self.case.in_flight - 1)  # one is taken before each wait
        futures: list[Future[InferReply]] = []
        cpu_started = time.process_time()
        started = self._clock()
        try:
            while not futures or self._clock() - started < seconds:
                future = self._transport.submit(next(self._requests), timeout_s=self._timeout_s)
                futures.append(future)
                future.add_done_callback(lambda _: slots.release())
                slots.acquire()
            replies = [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
        ended = self._clock()
        return Slice(
            len(replies) * self.case.batch,
            ended - started,
            tuple(reply.latency_ms for reply in replies),
            time.process_time() - cpu_started,
        )


def rotating(images: Uint8Array, batch: int) -> Iterator[Uint8Array]:
    """Batches from a pool of pictures, one after the other and over again, without copying."""
    return cycle([images[start : start + batch] for start in range(0, len(images) - batch + 1, batch)])


def pool_of_images(contract: Contract, count: int) -> Uint8Array:
    """Noise of the contract's shape: speed does not depend on what a picture shows."""
    shape = (count, *contract.picture_shape)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
