"""Calls of one engine, timed one by one, and waited for before the next.

On a CPU a call is `infer`. On a GPU it is what the engine computes from images that lie there already, by
the GPU's own events; `with copies` it is `infer` again, by this machine's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from alexnet_export import Runner
from alexnet_model.contract import Uint8Array

Seconds = Callable[[], float]


class Calls(Protocol):
    """As much of a `ResidentRunner` as is timed."""

    def place(self, images: Uint8Array) -> Any: ...

    def take(self, placed: Any) -> None: ...

    def launch(self) -> None: ...


class HostCalls:
    """`infer` of any runner: from this machine's memory and back."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def place(self, images: Uint8Array) -> Uint8Array:
        return images

    def take(self, placed: Uint8Array) -> None:
        self._images = placed

    def launch(self) -> None:
        self._runner.infer(self._images)


class DeviceClock(Protocol):
    """Times what is launched between `start` and `stop`."""

    def start(self) -> None: ...

    def stop(self) -> float:
        """Wait until it is done; milliseconds."""


class HostClock:
    """For what is done when it returns."""

    def __init__(self, now: Seconds = time.perf_counter) -> None:
        self._now = now

    def start(self) -> None:
        self._started = self._now()

    def stop(self) -> float:
        return 1e3 * (self._now() - self._started)


class Event(Protocol):
    """As PyTorch has them: a mark on a stream."""

    def synchronize(self) -> None: ...

    def elapsed_time(self, later: Any) -> float:
        """Milliseconds."""


class EventClock:
    """For what is put on a GPU's stream: `event` puts a mark there too, such as `CudaDevice.event`."""

    def __init__(self, event: Callable[[], Event]) -> None:
        self._event = event

    def start(self) -> None:
        self._started = self._event()

    def stop(self) -> float:
        stopped = self._event()
        stopped.synchronize()
        return self._started.elapsed_time(stopped)


@dataclass(frozen=True)
class Timed:
    """The calls of one stretch of time."""

    latencies_ms: tuple[float, ...]
    seconds: float  # of this machine's clock, with taking images and what else lies between the calls

    @property
    def calls_per_s(self) -> float:
        """One after another, with nothing between them: what the latencies are of, and no more."""
        return 1e3 * len(self.latencies_ms) / sum(self.latencies_ms)


def timed_calls(
    calls: Calls,
    placed: Iterator[Any],
    clock: DeviceClock,
    *,
    seconds: float,
    at_least: int = 1,
    now: Seconds = time.perf_counter,
) -> Timed:
    """Call for about so long and at least so often, each time with the next images."""
    latencies_ms: list[float] = []
    started = now()
    while len(latencies_ms) < at_least or now() - started < seconds:
        calls.take(next(placed))
        clock.start()
        calls.launch()
        latencies_ms.append(clock.stop())
    return Timed(tuple(latencies_ms), now() - started)
