"""What is done in the process of one engine: load it, warm it up, time slices of calls, judge its answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, cast

from alexnet_export import CudaDevice, ResidentRunner, Runner
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.manifest import RuntimeInfo, manifest_from_folder

from ..figures.percentiles import LatencyHistogram
from ..lanes import batches_of, pool_of_images
from .calls import Calls, DeviceClock, EventClock, HostCalls, HostClock, Seconds, timed_calls
from .memory import DeviceMemory, HostMemory, Memory
from .opening import Opening, opening_from_spec
from .specs import EngineSlice, EngineSpec, Judged

FEWEST_IMAGES = 64  # that rotate
FEWEST_BATCHES = 2


class HostedEngine:
    """One engine: `load`; at each batch `warm` and any number of slices; last `judge` and `describe`.

    `images` rotate: `(N, 224, 224, 3)` uint8, N at least the largest batch.
    """

    def __init__(
        self,
        opening: Opening,
        images: Uint8Array,
        *,
        calls_of: Callable[[Runner], Calls],
        clock: DeviceClock,
        memory: Memory,
        now: Seconds = time.perf_counter,
    ) -> None:
        self._opening = opening
        self._images = images
        self._calls_of = calls_of
        self._clock = clock
        self._memory = memory
        self._now = now
        self._runner: Runner | None = None

    def load(self) -> float:
        """From the file to a model that is ready, without importing its library; milliseconds."""
        started = self._now()
        with self._memory.watched():
            runner = self._opening()
            self._runner = runner.__enter__()
        took_ms = 1e3 * (self._now() - started)
        self._calls = self._calls_of(self._runner)
        return took_ms

    def warm(self, batch: int, seconds: float) -> float:
        """The first call at a batch, in milliseconds; more of them follow and are thrown away."""
        placed = [self._calls.place(images) for images in batches_of(self._images, batch)]
        self._placed: Iterator[Any] = cycle(placed)
        with self._memory.watched():
            first = timed_calls(self._calls, self._placed, self._clock, seconds=0, now=self._now)
            timed_calls(self._calls, self._placed, self._clock, seconds=seconds, now=self._now)
        return 1e3 * first.seconds

    def slice(self, batch: int, seconds: float, at_least: int) -> EngineSlice:
        """Calls at the batch that was warmed up last."""
        with self._memory.watched():
            timed = timed_calls(
                self._calls, self._placed, self._clock, seconds=seconds, at_least=at_least, now=self._now
            )
        histogram = LatencyHistogram()
        histogram.record_all(timed.latencies_ms)
        return EngineSlice(
            throughput_per_s=batch * timed.calls_per_s,
            histogram=histogram.encoded().decode("ascii"),
            peak_memory_bytes=self._memory.peak_bytes(),
        )

    def judge(self, export: str, max_batch: int) -> Judged:
        """Ask what was measured whether it is still the model, by the gate of the export in that folder."""
        from alexnet_export import gate_inputs_from_folder

        assert self._runner is not None
        folder = Path(export)
        gate_inputs = gate_inputs_from_folder(folder, manifest_from_folder(folder))
        report = gate_inputs.report_of_loaded(self._runner, max_batch)
        decision = gate_inputs.decision(report)
        return Judged(
            report=report,
            accepted=decision.accepted,
            reason=decision.reason,
            judged_on=gate_inputs.evaluated_on,
        )

    def describe(self) -> RuntimeInfo:
        """What the engine says of itself. Some load their file once more for it, so it comes last."""
        assert self._runner is not None
        return self._runner.runtime


def hosted_from_spec(spec: EngineSpec, largest: int) -> HostedEngine:
    """The engine that a spec means, for batches to `largest`.

    Raises:
        MissingExtra: a library is not installed.
        EngineError: one does not load, or there is no such GPU for this process.
    """
    device = None if spec.gpu is None else CudaDevice(spec.gpu)
    opening = opening_from_spec(spec, device)
    images = pool_of_images(Contract.from_json(spec.contract), max(FEWEST_IMAGES, FEWEST_BATCHES * largest))
    in_place = device is not None and not spec.copies
    return HostedEngine(
        opening,
        images,
        calls_of=_resident_calls if in_place else HostCalls,
        clock=EventClock(device.event) if device is not None and in_place else HostClock(),
        # Last: what was imported and made until here is not the engine's.
        memory=HostMemory() if device is None else DeviceMemory(device.free_bytes),
    )


def _resident_calls(runner: Runner) -> Calls:
    return cast("ResidentRunner", runner)
