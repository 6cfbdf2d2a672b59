"""Fake engines that advance a fake clock, for the tests of the engine benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest

from alexnet_bench.engines import ceilings, timing
from alexnet_bench.engines.benchmark import DeviceProcess
from alexnet_bench.engines.specs import EngineSpec, GateResult, TimedCalls
from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_bench.schema import EngineLabel, Roof
from alexnet_export import Outputs
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.gpus import Gpu
from alexnet_model.manifest import BatchParity, RunnerReport, RuntimeInfo

ROOF = Roof(device="CPU", computes_in="f32", operations_per_s=1e11, bytes_per_s=1e11)


@contextmanager
def fixed_ceilings(gpu: Gpu | None) -> Iterator[DeviceProcess]:
    """Ceilings that take no time, for runs of real engines."""
    yield DeviceProcess(roofs=lambda seconds: [ROOF], control_rate=lambda: 1e11)


class FakeClock:
    """A clock that advances only when a fake spends time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def spend(self, seconds: float) -> None:
        self.now_s += seconds

    def use(self, patch: pytest.MonkeyPatch) -> None:
        """Let the modules that time engines and kernels read this clock."""
        for module in (timing, ceilings):
            patch.setattr(module, "time", SimpleNamespace(perf_counter=self))


class FakeEvent:
    """An event on a stream at `stream_ms`; its time is known after `synchronize`."""

    def __init__(self, stream_ms: float) -> None:
        self.stream_ms = stream_ms
        self.was_awaited = False

    def synchronize(self) -> None:
        self.was_awaited = True

    def elapsed_time(self, later: FakeEvent) -> float:
        assert later.was_awaited, "the GPU was not waited for"
        return later.stream_ms - self.stream_ms


class FakeStream:
    """A GPU's stream: work on it takes the GPU's time and none of the host's."""

    def __init__(self) -> None:
        self.ms = 0.0

    def event(self) -> FakeEvent:
        return FakeEvent(self.ms)


class FakeRunner:
    """Takes so many seconds an image, and records which images it was given."""

    def __init__(self, clock: FakeClock, seconds_per_image: float, load_s: float = 0.0) -> None:
        self._clock = clock
        self._seconds_per_image = seconds_per_image
        self._load_s = load_s
        self.runtime = RuntimeInfo(name="openvino", device="CPU", computes_in="f32")
        self.seen: list[int] = []

    def __enter__(self) -> Self:
        self._clock.spend(self._load_s)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def infer(self, images: Uint8Array) -> Outputs:
        self.seen.append(int(images.flat[0]))
        self._clock.spend(len(images) * self._seconds_per_image)
        return Outputs(np.zeros((len(images), 2), np.float32), np.zeros((len(images), 2), np.float32))


class FakeProcess:
    """An engine of a sweep: records its calls in a log, and fails where a test says so."""

    def __init__(
        self,
        spec: EngineSpec,
        log: list[str],
        *,
        latency_ms: float = 10.0,
        failing: Callable[[str, int], Exception | None] = lambda verb, batch: None,
        is_the_model: bool = True,
    ) -> None:
        self._spec = spec
        self._log = log
        self._latency_ms = latency_ms
        self._failing = failing
        self._is_the_model = is_the_model
        self.is_open = False

    def __enter__(self) -> Self:
        self.is_open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False

    def wait_until_started(self) -> None:
        self._do("start", 0)

    def load(self) -> float:
        self._do("load", 0)
        return 100.0

    def warm_up(self, batch: int, seconds: float, copies: bool) -> float:
        self._copies = " with copies" if copies else ""
        self._do("warm up", batch, self._copies)
        return 2 * self._latency_ms

    def time_calls(self, batch: int, seconds: float, at_least: int) -> TimedCalls:
        self._do("time", batch, self._copies)
        histogram = LatencyHistogram()
        histogram.record_all([self._latency_ms] * at_least)
        return TimedCalls(
            throughput_per_s=1e3 * batch / self._latency_ms,
            histogram=histogram.encoded().decode("ascii"),
            peak_memory_bytes=10**6 * batch,
        )

    def judge(self, export: Path) -> GateResult:
        self._do("judge", 0)
        return judged(accepted=self._is_the_model)

    def describe(self) -> RuntimeInfo:
        self._do("describe", 0)
        return RuntimeInfo(name="openvino", device="CPU", computes_in="f32")

    def _do(self, verb: str, batch: int, how: str = "") -> None:
        assert self.is_open
        self._log.append(f"{verb} {self._spec.precision} {batch}".removesuffix(" 0") + how)
        if error := self._failing(verb, batch):
            raise error


def spec(precision: str = "fp32", **changes: Any) -> EngineSpec:
    values: dict[str, Any] = {
        "runtime": "openvino",
        "precision": precision,
        "file": Path("/nowhere") / f"alexnet_{precision}.onnx",
        "size_bytes": 1000,
        "max_batch": 8,
        "contract": Contract().to_json(),
        "classes": 2,
    }
    return EngineSpec.model_validate(values | changes)


def judged(*, accepted: bool = True) -> GateResult:
    """The gate's result for two classes and one batch."""
    decibels = 120.0 if accepted else 12.0
    row = BatchParity(
        batch=1,
        against_pytorch_db=decibels,
        against_alone_db=200.0,
        same_top1=True,
        worst_slot=0,
        finite=True,
        probabilities_off=0.0,
    )
    report = RunnerReport(
        runtime=RuntimeInfo(name="openvino", device="CPU", computes_in="f32"),
        parity=(row,),
        images=360,
        signal_to_noise_db=decibels,
        agreement=1.0,
        top1=0.975,
        top1_drop=0.0,
    )
    reason = "same model" if accepted else "logits are 12.0 dB above their error, at least 30 needed"
    return GateResult(
        report=report, accepted=accepted, reason=reason, judged_on="360 images of digits (test)"
    )


def engine(**changes: Any) -> EngineLabel:
    values: dict[str, Any] = {
        "runtime": "openvino",
        "device": "CPU",
        "computes_in": "f32",
        "precision": "fp32",
    }
    return EngineLabel.model_validate(values | changes)
