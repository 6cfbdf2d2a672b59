"""How the calls of one engine are timed: clocks, memory, warm-up. The GPU's clock is a fake."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from alexnet_bench.engines import memory as memory_module
from alexnet_bench.engines.memory import DeviceMemory, HostMemory, bytes_by_driver, memory_on_gpu
from alexnet_bench.engines.timing import (
    HostCalls,
    TimedEngine,
    event_timer,
    time_on_host,
    timed_calls,
)
from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_export import CudaDevice, EngineOptions
from alexnet_export.convert import onnx_from_checkpoint
from alexnet_export.engines.tensorrt_api import TensorRt
from alexnet_export.engines.tensorrt_compiler import engine_from_onnx
from alexnet_export.engines.tensorrt_runner import EngineRunner
from alexnet_model.contract import Contract
from alexnet_model.errors import EngineError
from alexnet_model.gpus import Gpu
from alexnet_model.passport import Profile

from ..export.fake_tensorrt import HostDevice, fake_tensorrt
from ..networks import random_checkpoint
from ..stand_ins.nvidia_smi import failing_nvidia_smi, install_nvidia_smi
from .sweep_fakes import FakeClock, FakeRunner, FakeStream

# Eight images, each filled with its own number.
IMAGES = np.repeat(np.arange(8, dtype=np.uint8), 224 * 224 * 3).reshape(8, 224, 224, 3)
H200 = Gpu(index=0, name="NVIDIA H200", compute_capability="9.0", driver="580.95.05", memory_mib=143_771)


class ResidentFake:
    """A runner on a GPU: `launch` takes the stream 5 ms, `take` 3 ms, and both take the host no time."""

    def __init__(self, stream: FakeStream) -> None:
        self._stream = stream
        self.log: list[str] = []

    def place(self, images: Any) -> str:
        return f"images {images.flat[0]}"

    def take(self, placed: str) -> None:
        self.log.append(placed)
        self._stream.ms += 3

    def launch(self) -> None:
        self._stream.ms += 5


def latencies_of(histogram: str) -> LatencyHistogram:
    found = LatencyHistogram()
    found.add(histogram.encode("ascii"))
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    clock.use(monkeypatch)
    return clock


def test_calls_last_for_the_given_seconds_and_have_the_given_minimum(
    clock: FakeClock,
) -> None:
    calls = HostCalls(FakeRunner(clock, 0.1))
    images = cycle([IMAGES[:1]])
    assert timed_calls(calls, images, time_on_host, seconds=0.25) == pytest.approx([100] * 3)
    assert clock() == pytest.approx(0.3)
    assert len(timed_calls(calls, images, time_on_host, seconds=0.05, at_least=4)) == 4
    assert len(timed_calls(calls, images, time_on_host, seconds=0)) == 1


def test_calls_on_a_gpu_are_timed_by_its_events_without_placing_and_taking_images(
    clock: FakeClock,
) -> None:
    stream = FakeStream()  # the host's clock does not advance
    calls = ResidentFake(stream)
    timer = event_timer(stream.event)
    assert timed_calls(calls, cycle(["a", "b"]), timer, seconds=-1, at_least=3) == [5, 5, 5]
    assert calls.log == ["a", "b", "a"]


def test_an_engine_is_loaded_warmed_up_and_timed(clock: FakeClock) -> None:
    runner = FakeRunner(clock, 0.5, load_s=2.0)
    engine_here = TimedEngine(
        lambda: runner,
        IMAGES,
        largest_batch=8,
        memory=HostMemory(),
    )
    assert engine_here.load() == pytest.approx(2000)
    assert engine_here.warm_up(2, 2.5) == pytest.approx(1000)
    assert runner.seen == [0, 2, 4, 6]  # the first call, then 2.5 s of burn-in
    found = engine_here.time_calls(2, 1.5, 1)
    assert runner.seen[4:] == [0, 2]  # the images go on rotating
    assert found.throughput_per_s == pytest.approx(2)
    assert latencies_of(found.histogram).samples == 2
    assert latencies_of(found.histogram).percentile_ms(50) == pytest.approx(1000, rel=1e-3)
    assert engine_here.time_calls(2, 0.1, 3).throughput_per_s == pytest.approx(2)
    assert engine_here.warm_up(8, 0) == pytest.approx(4000)
    assert engine_here.describe().name == "openvino"


@pytest.mark.parametrize("graphs", [False, True])
def test_an_engine_on_a_gpu_is_timed_on_images_in_its_own_memory(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, graphs: bool
) -> None:
    """TensorRT's runner on a fake of TensorRT, with a device in host memory."""
    onnx = tmp_path / "fp32.onnx"
    onnx_from_checkpoint(random_checkpoint(width=0.05), onnx, max_batch=4)
    trt, device, stream = fake_tensorrt("11.1.0.106"), HostDevice(), FakeStream()
    api, engine = TensorRt(trt, "tensorrt"), tmp_path / "engine.plan"
    passport = engine_from_onnx(
        api,
        onnx,
        engine,
        EngineOptions(runtime="tensorrt", timing_caches=tmp_path),
        precision="fp32",
        profile=Profile(min=1, opt=2, max=4),
        contract=Contract(),
        gpu=H200,
    )

    executions = trt.recorder.executions

    def event() -> Any:
        stream.ms = 7.0 * len(executions)  # the stream takes 7 ms for each
        clock.spend(0.01)  # and the host 10 ms
        return stream.event()

    engine_here = TimedEngine(
        lambda: EngineRunner(
            engine,
            passport,
            api=api,
            device=device,
            classes=10,
            contract=Contract(),
            cuda_graphs=graphs,
        ),
        IMAGES,
        largest_batch=8,
        memory=DeviceMemory(lambda: 1000, "process"),
        event=event,
    )
    engine_here.load()
    engine_here.warm_up(4, 0)
    found = engine_here.time_calls(4, 0, 3)
    assert latencies_of(found.histogram).percentile_ms(100) == pytest.approx(7, rel=1e-3)
    # By the stream's 7 ms, as the latencies, not by the host's 10 ms.
    assert found.throughput_per_s == pytest.approx(4 / 0.007)
    assert executions == [4] * 5  # the first call, one of burn-in, three that count
    assert device.captures == (1 if graphs else 0)
    # The same engine with copies: the whole call by the host's clock, of which a copy takes 20 ms.
    upload = device.upload

    def slow_upload(*copied: Any) -> None:
        clock.spend(0.02)
        upload(*copied)

    monkeypatch.setattr(device, "upload", slow_upload)
    engine_here.warm_up(4, 0, copies=True)
    assert engine_here.time_calls(4, 0, 1).throughput_per_s == pytest.approx(4 / 0.02)
    assert executions == [4] * 8
    with pytest.raises(EngineError, match="a batch of 8, expected at most 4"):
        engine_here.warm_up(8, 0)


def test_host_memory_is_the_peak_of_the_process_minus_its_size_before(tmp_path: Path) -> None:
    def status(resident_kb: int, peak_kb: int) -> None:
        lines = f"Name:\tpython\nVmHWM:\t{peak_kb:8} kB\nVmRSS:\t{resident_kb:8} kB\n"
        (tmp_path / "status").write_text(lines)

    status(1000, 5000)
    memory = HostMemory(tmp_path)
    assert (tmp_path / "clear_refs").read_text() == "5"
    with memory.watched():
        status(2500, 3000)
    assert memory.peak_bytes() == 2000 * 1024
    (tmp_path / "status").unlink()
    assert memory.peak_bytes() is None
    assert HostMemory(tmp_path / "nowhere").peak_bytes() is None


def test_host_memory_sees_a_real_allocation() -> None:
    """In a process of its own, since other tests' threads free memory at any time."""
    script = (
        "import numpy as np; from alexnet_bench.engines.memory import HostMemory; memory = HostMemory(); "
        "block = np.ones(64 << 20, np.uint8); del block; print(memory.peak_bytes())"
    )
    peak = int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout)
    assert 60 << 20 < peak < 256 << 20


def test_device_memory_does_not_count_what_is_allocated_outside_of_watching() -> None:
    used = [1000]
    memory = DeviceMemory(lambda: used[0], "device")
    with memory.watched():
        used[0] += 300
    used[0] += 500  # images, or another program
    with memory.watched():
        used[0] += 100
    assert memory.peak_bytes() == 400
    with memory.watched():
        used[0] -= 200
    assert memory.peak_bytes() == 400


def test_a_gpus_memory_is_read_at_the_first_calls_of_each_batch_only(clock: FakeClock) -> None:
    readings: list[int] = []

    def used_bytes() -> int:
        readings.append(1)
        return 100 * len(readings)

    runner, stream = FakeRunner(clock, 0.5), FakeStream()
    calls = ResidentFake(stream)
    runner.place, runner.take, runner.launch = calls.place, calls.take, calls.launch  # type: ignore[attr-defined]
    memory = DeviceMemory(used_bytes, "process")
    engine_here = TimedEngine(lambda: runner, IMAGES, largest_batch=8, memory=memory, event=stream.event)
    engine_here.load()
    for batch in (1, 2, 2, 1):
        engine_here.warm_up(batch, -1)
        found = engine_here.time_calls(batch, -1, 1)
    assert len(readings) == 6  # loading and two batches, before and after
    assert (found.peak_memory_bytes, found.memory_of) == (300, "process")


def listing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *rows: str) -> None:
    """Install an `nvidia-smi` that lists these processes."""
    install_nvidia_smi(monkeypatch, tmp_path, f"printf '%s\\n' {shlex.join(rows)}")


class FakeDevice:
    index = 0

    def free_bytes(self) -> int:
        return 5000


def test_the_driver_lists_the_memory_of_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listing(monkeypatch, tmp_path, "1, 7000", f"{os.getpid()}, 300", f"{os.getpid()}, 20")
    assert bytes_by_driver() == 320 << 20
    assert memory_on_gpu(cast("CudaDevice", FakeDevice()), "tensorrt").of == "process"
    listing(monkeypatch, tmp_path, f"{os.getpid()}, [N/A]")
    assert bytes_by_driver() is None
    failing_nvidia_smi(monkeypatch, tmp_path)
    assert bytes_by_driver() is None


def test_without_the_driver_it_is_pytorchs_own_memory_or_what_the_gpu_has_less_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a container, where the driver lists other process ids."""
    listing(monkeypatch, tmp_path, "1, 7000")
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: 700)
    device = cast("CudaDevice", FakeDevice())
    of_pytorch, of_onnxruntime = memory_on_gpu(device, "pytorch"), memory_on_gpu(device, "onnxruntime")
    assert (of_pytorch.of, of_pytorch._used_bytes()) == ("process", 700)
    assert (of_onnxruntime.of, of_onnxruntime._used_bytes()) == ("device", -5000)


def test_a_reading_that_fails_once_counts_as_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([1, 300, None, 400])
    monkeypatch.setattr(memory_module, "bytes_by_driver", lambda: next(readings))
    memory = memory_on_gpu(cast("CudaDevice", FakeDevice()), "tensorrt")
    with memory.watched():
        pass
    assert memory.peak_bytes() == 0
    assert memory._used_bytes() == 400
