"""The ceilings of a device, measured: large matrix products in each type, a large copy and a large read.

A CPU reads weights faster than it copies: a copy fetches what it is about to overwrite, and that is not
counted. A shared machine may be slow for minutes: the same works are looked at again and again, and the best
counts.

A type whose product is no faster than float32's has no fast one in these libraries, and gets no ceiling:
engines bring their own kernels for it, so its limit is not known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_export import CudaDevice
from alexnet_model.extras import needs
from alexnet_model.gpus import Gpu

from ..schema import Roof
from .calls import DeviceClock, EventClock, HostClock, Seconds

with needs("export"):
    import onnx
    import onnxruntime
    import torch
    from onnx import TensorProto

# As runners name what they compute in.
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "i8": torch.int8}
FLOAT32 = "f32"
OPSET, IR_VERSION = 20, 10  # of ONNX, which the runtimes here read
Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sides of square matrices, the smallest for a trial: a type without a fast product then costs little."""

    sides: tuple[int, ...]
    buffer_bytes: int


ON_CPU = Sizes(sides=(512, 1024, 2048, 4096), buffer_bytes=256 << 20)
ON_GPU = Sizes(sides=(2048, 4096, 8192), buffer_bytes=1 << 30)
# Of one product: long enough to fill the device, short enough that some of many meet a quiet moment.
LONGEST_MS = 20.0
HOPELESS = 50  # times slower than float32 in a trial: no busy moment, but no fast product
NO_SUCH_PRODUCT = (AttributeError, NotImplementedError, RuntimeError)  # of a type, on a device


@dataclass
class Tried:
    """Works that do the same amount, of operations or bytes, and the most that any did a second until now.

    They stay, with their memory: making them anew takes longer than a look at them.
    """

    make: Callable[[], Sequence[Work]]
    amount: float
    works: Sequence[Work] = ()
    most_per_s: float = 0.0


class CeilingBench:
    """One device. The best of all tries counts: what it can do, not what it mostly does."""

    def __init__(
        self,
        name: str,
        place: str,
        sizes: Sizes,
        clock: DeviceClock,
        *,
        working: Callable[[], AbstractContextManager[None]] = nullcontext,
        now: Seconds = time.perf_counter,
        products_of: Callable[[str, int, str], Sequence[Work]] | None = None,
        copy_of: Callable[[int, str], Work] | None = None,
        read_of: Callable[[int, str], Work] | None = None,
    ) -> None:
        """`place` as PyTorch names the device; inside `working` it works on the stream of the clock."""
        self._name = name
        self._place = place
        self._sizes = sizes
        self._clock = clock
        self._now = now
        self._working = working
        self._products_of = products_of or products
        size_bytes = sizes.buffer_bytes
        copy, read = copy_of or large_copy, read_of or large_read
        self._moved = (
            Tried(lambda: [copy(size_bytes, place)], amount=2 * size_bytes),  # read and written
            Tried(lambda: [read(size_bytes, place)], amount=size_bytes),
        )
        self._trials = {kind: self._product(kind, sizes.sides[0]) for kind in TYPES}
        self._multiplied: dict[str, Tried] = {}  # by type

    def roofs(self, seconds: float) -> list[Roof]:
        """One a type that has a fast product, by this look and all before; each work is tried for so long."""
        with self._working():
            for tried in self._moved:
                self._look(tried, seconds)
            self._choose(seconds / 10)
            for tried in self._multiplied.values():
                with suppress(*NO_SUCH_PRODUCT):
                    self._look(tried, seconds)
        rates = {kind: self._multiplied[kind].most_per_s for kind in TYPES if kind in self._multiplied}
        return [
            Roof(
                device=self._name,
                computes_in=kind,
                operations_per_s=rate,
                bytes_per_s=max(tried.most_per_s for tried in self._moved),
            )
            for kind, rate in rates.items()
            if kind == FLOAT32 or rate > rates[FLOAT32]
        ]

    def _choose(self, seconds: float) -> None:
        """Types that are worth a look. A trial is rough: one that comes near float32 in it may be faster.

        One that does not may have met a busy moment, and has another trial at the next look.
        """
        in_float32 = self._trials[FLOAT32]  # has its own trial first
        for kind, trial in self._trials.items():
            is_hopeless = trial.works and trial.most_per_s < in_float32.most_per_s / HOPELESS
            if kind in self._multiplied or is_hopeless:
                continue
            with suppress(*NO_SUCH_PRODUCT):
                self._look(trial, seconds)
            if trial.most_per_s >= in_float32.most_per_s / 2:
                self._multiplied[kind] = self._product(kind, self._side(trial.most_per_s))

    def _product(self, kind: str, side: int) -> Tried:
        """Two operations a multiply-add."""
        return Tried(lambda: self._products_of(kind, side, self._place), amount=2 * side**3)

    def _side(self, operations_per_s: float) -> int:
        """The largest whose product is short enough."""
        sides = self._sizes.sides
        return max(
            (side for side in sides if 1e3 * 2 * side**3 / operations_per_s <= LONGEST_MS), default=sides[0]
        )

    def _look(self, tried: Tried, seconds: float) -> None:
        tried.works = tried.works or tried.make()
        best_ms = min(self._best_ms(work, seconds) for work in tried.works)
        tried.most_per_s = max(tried.most_per_s, tried.amount / (best_ms / 1e3))

    def _best_ms(self, work: Work, seconds: float) -> float:
        work()  # memory touched, kernels chosen, and the device awake
        tries: list[float] = []
        started = self._now()
        while len(tries) < 3 or self._now() - started < seconds:
            self._clock.start()
            work()
            tries.append(self._clock.stop())
        return min(tries)


def products(kind: str, side: int, place: str) -> list[Work]:
    """Square products of a type: PyTorch's by rows and by columns of the second factor, either may be faster.

    Some builds of PyTorch and NumPy reach half of what a CPU can in float32, so ONNX Runtime's is there too.
    """
    dtype = TYPES[kind]
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(-64, 64, (2, side, side), generator=generator).to(place, dtype)
    left, right = numbers[0], numbers[1]
    multiply: Any = torch._int_mm if kind == "i8" else torch.mm
    found: list[Work] = [lambda: multiply(left, right), lambda: multiply(left, right.t())]
    if place == "cpu" and kind in ("f32", "i8"):
        found.append(_of_onnxruntime(left.numpy(), right.numpy()))
    return found


def _of_onnxruntime(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> Work:
    """With the second factor as a constant, laid out for it beforehand, as an engine's weights are."""
    is_float = left.dtype == np.float32
    types = (TensorProto.FLOAT, TensorProto.FLOAT) if is_float else (TensorProto.UINT8, TensorProto.INT32)
    ends = [
        onnx.helper.make_tensor_value_info(name, kind, left.shape)
        for name, kind in zip(("left", "product"), types, strict=True)
    ]
    node = onnx.helper.make_node("MatMul" if is_float else "MatMulInteger", ["left", "right"], ["product"])
    graph = onnx.helper.make_graph(
        [node], "product", ends[:1], ends[1:], [onnx.numpy_helper.from_array(right, "right")]
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {"left": left if is_float else left.view(np.uint8)}
    return lambda: session.run(None, given)


def large_copy(size_bytes: int, place: str) -> Work:
    """From one buffer to another, both far larger than any cache."""
    source = torch.ones(size_bytes // 4, dtype=torch.float32, device=place)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def large_read(size_bytes: int, place: str) -> Work:
    """All of a buffer, of which next to nothing is kept."""
    source = torch.ones(size_bytes // 4, dtype=torch.float32, device=place)
    return lambda: source.sum()


def bench_from_gpu(gpu: Gpu | None) -> CeilingBench:
    """Of a GPU, or of the CPU where there is none.

    Raises:
        EngineError: PyTorch does not see that GPU.
    """
    if gpu is None:
        return CeilingBench("CPU", "cpu", ON_CPU, HostClock())
    device = CudaDevice(gpu)
    torch.backends.cuda.matmul.allow_tf32 = False  # its products would be no FP32
    clock = EventClock(device.event)
    return CeilingBench(device.name, f"cuda:{device.index}", ON_GPU, clock, working=device.working)
