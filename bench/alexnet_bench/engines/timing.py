"""Load one engine in this process and time its calls.

    engine = engine_from_spec(spec, largest_batch=32)
    load_ms = engine.load()
    first_call_ms = engine.warm_up(32, seconds=0.2)
    timed = engine.time_calls(32, seconds=0.5, at_least=3)

Each call is waited for before the next begins. On a CPU a call is `Runner.infer`. On a GPU it is the
computation on images that are on the GPU already, timed by the GPU's own events; with copies it is
`Runner.infer` again, timed by the host's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from alexnet_export import CudaDevice, RunnerSource, open_runner
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.manifest import RuntimeInfo, manifest_from_folder
from alexnet_model.runtimes import runtime_named

from ..figures.percentiles import LatencyHistogram
from .memory import HostMemory, Memory, memory_on_gpu
from .specs import EngineSpec, GateResult, TimedCalls

if TYPE_CHECKING:
    from alexnet_export import ResidentRunner, Runner

FEWEST_IMAGES = 64  # distinct images that rotate, so that no cache holds the next input
FEWEST_BATCHES = 2
TimeCall = Callable[[Callable[[], object]], float]  # makes a call, and returns its milliseconds


class Calls(Protocol):
    """The part of a `ResidentRunner` that is timed."""

    def place(self, images: Uint8Array) -> Any: ...

    def take(self, placed: Any) -> None: ...

    def launch(self) -> None: ...


class HostCalls:
    """Calls of `infer` of any runner: images and outputs are in the host's memory."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def place(self, images: Uint8Array) -> Uint8Array:
        return images

    def take(self, placed: Uint8Array) -> None:
        self._images = placed

    def launch(self) -> None:
        self._runner.infer(self._images)


def time_on_host(call: Callable[[], object]) -> float:
    """Time a call by the host's clock, in milliseconds: for work that is done when its call returns."""
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def event_timer(event: Callable[[], Any]) -> TimeCall:
    """Time a call by a GPU's own clock, and wait for its work.

    Args:
        event: Records a PyTorch event on the stream that the call uses, as `CudaDevice.event` does.
    """

    def time_call(call: Callable[[], object]) -> float:
        started = event()
        call()
        stopped = event()
        stopped.synchronize()
        return float(started.elapsed_time(stopped))

    return time_call


def timed_calls(
    calls: Calls,
    placed: Iterator[Any],
    time_call: TimeCall,
    *,
    seconds: float,
    at_least: int = 1,
) -> list[float]:
    """Call for about `seconds`, and at least so many times, each time with the next images.

    Returns:
        The latency of each call in milliseconds. What lies between the calls is not in it.
    """
    latencies_ms: list[float] = []
    started = time.perf_counter()
    while len(latencies_ms) < at_least or time.perf_counter() - started < seconds:
        calls.take(next(placed))
        latencies_ms.append(time_call(calls.launch))
    return latencies_ms


class TimedEngine:
    """One engine in this process.

    Call `load`; at each batch `warm_up` and `time_calls`; last `judge` and `describe`.
    """

    def __init__(
        self,
        create_runner: Callable[[], Runner],
        images: Uint8Array,
        *,
        largest_batch: int,
        memory: Memory,
        event: Callable[[], Any] | None = None,
    ) -> None:
        """
        Args:
            create_runner: Creates the runner; entering it loads the model.
            images: Images that rotate, `(N, S, S, 3)` uint8, N at least the largest batch.
            largest_batch: Largest batch that is measured and judged.
            memory: Measures the engine's memory.
            event: For a `ResidentRunner`, records an event on its GPU's stream. None: a runner on the CPU.
        """
        self._create_runner = create_runner
        self._images = images
        self._largest_batch = largest_batch
        self._memory = memory
        self._event = event
        self._runner: Runner | None = None
        self._warmed_up: set[tuple[int, bool]] = set()

    def load(self) -> float:
        """Load the model, and return milliseconds; importing the library is not in it."""
        started = time.perf_counter()
        with self._memory.watched():
            self._runner = self._create_runner().__enter__()
        return 1e3 * (time.perf_counter() - started)

    def close(self) -> None:
        """Unload the model."""
        if self._runner is not None:
            self._runner.__exit__(None, None, None)

    @property
    def runner(self) -> Runner:
        """The loaded runner."""
        assert self._runner is not None
        return self._runner

    def warm_up(self, batch: int, seconds: float, copies: bool = False) -> float:
        """Call for about `seconds` at a batch, and return the milliseconds of the first call.

        Args:
            batch: Images a call.
            seconds: Length of the calls after the first.
            copies: Whether these and the next timed calls include the copies to and from the GPU.
        """
        if self._event is None or copies:
            self._calls: Calls = HostCalls(self.runner)
            self._time_call: TimeCall = time_on_host
        else:
            self._calls = cast("ResidentRunner", self.runner)
            self._time_call = event_timer(self._event)
        self._placed: Iterator[Any] = iter(())  # frees the images of the batch before
        self._placed = cycle([self._calls.place(images) for images in batches_of(self._images, batch)])
        # Looking at a GPU's memory takes time, and engines allocate at the first calls of a batch.
        is_first = (batch, copies) not in self._warmed_up
        self._warmed_up.add((batch, copies))
        with self._memory.watched() if is_first else nullcontext():
            first_ms = time_on_host(lambda: self._timed(seconds=0, at_least=1))
            self._timed(seconds=seconds, at_least=1)
        return first_ms

    def time_calls(self, batch: int, seconds: float, at_least: int) -> TimedCalls:
        """Time calls for about `seconds`, and at least so many, at the batch that was warmed up last."""
        latencies_ms = self._timed(seconds=seconds, at_least=at_least)
        histogram = LatencyHistogram()
        histogram.record_all(latencies_ms)
        return TimedCalls(
            throughput_per_s=1e3 * batch * len(latencies_ms) / sum(latencies_ms),
            histogram=histogram.encoded().decode("ascii"),
            peak_memory_bytes=self._memory.peak_bytes(),
            memory_of=self._memory.of,
        )

    def judge(self, export: Path) -> GateResult:
        """Judge the loaded engine by the gate of the export in a folder, at batches up to the largest.

        Raises:
            ManifestError: the export's folder has no reference outputs.
        """
        from alexnet_export import gate_inputs_from_folder

        gate_inputs = gate_inputs_from_folder(export, manifest_from_folder(export))
        report = gate_inputs.report_of_loaded(self.runner, self._largest_batch)
        decision = gate_inputs.decision(report)
        return GateResult(
            report=report,
            accepted=decision.accepted,
            reason=decision.reason,
            judged_on=gate_inputs.evaluated_on,
        )

    def describe(self) -> RuntimeInfo:
        """Report what the loaded engine computes in. Call it last: some runners load their file again."""
        return self.runner.runtime

    def _timed(self, *, seconds: float, at_least: int) -> list[float]:
        return timed_calls(self._calls, self._placed, self._time_call, seconds=seconds, at_least=at_least)


def runner_from_spec(spec: EngineSpec, device: CudaDevice | None = None) -> Runner:
    """Create the runner of an engine, and import only its runtime. Entering the runner loads the model.

    Args:
        spec: The engine.
        device: The GPU of the spec, if the caller has opened it already.

    Raises:
        MissingExtra: a library is not installed.
        RuntimeNotUsable: the runtime's entry in the registry names no runner.
        EngineError: a library does not load, or this process does not see the GPU.
    """
    if spec.gpu is not None and device is None:
        device = CudaDevice(spec.gpu)
    source = RunnerSource(
        file=spec.file,
        precision=spec.precision,
        contract=Contract.from_json(spec.contract),
        classes=spec.classes,
        max_batch=spec.max_batch,
        options=spec.options,
        device=device,
        cuda_graphs=spec.cuda_graphs,
    )
    if spec.half:
        from .peers import half_runner_from_source

        return half_runner_from_source(source, compiled=spec.is_compiled)
    return open_runner(spec.runtime, source)


def engine_from_spec(spec: EngineSpec, largest_batch: int) -> TimedEngine:
    """Prepare one engine for batches up to `largest_batch`: import its library, but load nothing yet.

    Raises:
        MissingExtra: a library is not installed.
        RuntimeNotUsable: the runtime's entry in the registry names no runner.
        EngineError: a library does not load, or this process does not see the GPU.
    """
    device = None if spec.gpu is None else CudaDevice(spec.gpu)
    runtime_named(spec.runtime).load_runner_factory()  # imports the library, which is no part of loading
    images = pool_of_images(
        Contract.from_json(spec.contract), max(FEWEST_IMAGES, FEWEST_BATCHES * largest_batch)
    )
    return TimedEngine(
        partial(runner_from_spec, spec, device),
        images,
        largest_batch=largest_batch,
        # Created last: what was imported and allocated until here is not the engine's.
        memory=HostMemory() if device is None else memory_on_gpu(device, spec.runtime),
        event=None if device is None else device.event,
    )


def pool_of_images(contract: Contract, count: int) -> Uint8Array:
    """Make `(count, height, width, 3)` images of noise: speed does not depend on what an image shows."""
    shape = (count, *contract.image_shape)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def batches_of(images: Uint8Array, batch: int) -> list[Uint8Array]:
    """Split images into batches: at least four if there are enough images, and at most 64 images in all."""
    pool = images[: max(4 * batch, 64)]
    return [pool[start : start + batch] for start in range(0, len(pool) - batch + 1, batch)]
