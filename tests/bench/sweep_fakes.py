"""Engines whose time only they move, for the tests of the ladder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from alexnet_bench.engines.calls import HostClock
from alexnet_bench.engines.specs import EngineSlice, EngineSpec, Judged
from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_bench.schema import EngineLabel
from alexnet_export import Outputs
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.manifest import BatchParity, RunnerReport, RuntimeInfo


class FakeClock:
    """Seconds that pass where a fake spends them."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def spend(self, seconds: float) -> None:
        self.now_s += seconds

    def device_clock(self) -> HostClock:
        return HostClock(self)


class FakeEvent:
    """A mark on a stream whose time is `stream_ms` when it is made; it is known once it was waited for."""

    def __init__(self, stream_ms: float) -> None:
        self.stream_ms = stream_ms
        self.was_awaited = False

    def synchronize(self) -> None:
        self.was_awaited = True

    def elapsed_time(self, later: FakeEvent) -> float:
        assert later.was_awaited, "the GPU was not waited for"
        return later.stream_ms - self.stream_ms


class FakeStream:
    """Work that is put on it takes a GPU's time, and this machine's none."""

    def __init__(self) -> None:
        self.ms = 0.0

    def event(self) -> FakeEvent:
        return FakeEvent(self.ms)


class FakeRunner:
    """Takes so many seconds an image, and says which images it saw."""

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
    """An engine of the ladder: writes into a diary what it was asked, and fails where it is told to."""

    def __init__(
        self,
        spec: EngineSpec,
        diary: list[str],
        *,
        latency_ms: float = 10.0,
        failing: Callable[[str, int], Exception | None] = lambda verb, batch: None,
        is_the_model: bool = True,
    ) -> None:
        self._spec = spec
        self._diary = diary
        self._latency_ms = latency_ms
        self._failing = failing
        self._is_the_model = is_the_model
        self.is_open = False

    def __enter__(self) -> Self:
        self.is_open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False

    def load(self) -> float:
        self._do("load", 0)
        return 100.0

    def warm(self, batch: int, seconds: float) -> float:
        self._do("warm", batch)
        return 2 * self._latency_ms

    def slice(self, batch: int, seconds: float, at_least: int) -> EngineSlice:
        self._do("slice", batch)
        histogram = LatencyHistogram()
        histogram.record_all([self._latency_ms] * at_least)
        return EngineSlice(
            throughput_per_s=1e3 * batch / self._latency_ms,
            histogram=histogram.encoded().decode("ascii"),
            peak_memory_bytes=10**6 * batch,
        )

    def judge(self, export: Path) -> Judged:
        self._do("judge", 0)
        return judged(accepted=self._is_the_model)

    def describe(self) -> RuntimeInfo:
        self._do("describe", 0)
        return RuntimeInfo(name="openvino", device="CPU", computes_in="f32")

    def _do(self, verb: str, batch: int) -> None:
        assert self.is_open
        self._diary.append(f"{verb} {self._spec.precision} {batch}".removesuffix(" 0"))
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


def judged(*, accepted: bool = True) -> Judged:
    """As the gate says it of two classes and one batch."""
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
        signal_to_noise_db=decibels,
        agreement=1.0,
        top1=0.975,
        top1_drop=0.0,
    )
    reason = "same model" if accepted else "logits are 12.0 dB above their error, at least 30 needed"
    return Judged(report=report, accepted=accepted, reason=reason, judged_on="360 images of digits (test)")


def engine(**changes: Any) -> EngineLabel:
    values: dict[str, Any] = {
        "runtime": "openvino",
        "device": "CPU",
        "computes_in": "f32",
        "precision": "fp32",
    }
    return EngineLabel.model_validate(values | changes)
