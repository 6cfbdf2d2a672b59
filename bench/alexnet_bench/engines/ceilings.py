"""Measure the ceilings of a device: large matrix products in each type, a large copy and a large read.

A CPU reads weights faster than it copies: a copy also fetches the memory that it overwrites, which is not
counted. A shared machine may be slow for minutes, so the same kernels are measured again throughout a run,
and the best rate counts.

A type whose product is no faster than float32's has no fast product in these libraries, and gets no ceiling:
engines bring their own kernels for it, so its limit is unknown.
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
from .timing import TimeCall, event_timer, time_on_host

with needs("export"):
    import onnx
    import onnxruntime
    import torch
    from onnx import TensorProto

# As runners name what they compute in.
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "i8": torch.int8}
FLOAT32 = "f32"
OPSET, IR_VERSION = 20, 10  # of ONNX, which the runtimes here read
Kernel = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the kernels.

    Attributes:
        sides: Sides of square matrices. The smallest is for a trial, so that a type without a fast product
            costs little time.
        buffer_bytes: Size of the buffer that is copied and read.
    """

    sides: tuple[int, ...]
    buffer_bytes: int


ON_CPU = Sizes(sides=(512, 1024, 2048, 4096), buffer_bytes=256 << 20)
ON_GPU = Sizes(sides=(2048, 4096, 8192), buffer_bytes=1 << 30)
# Longest product: it fills the device, and is short enough that some of many run while the machine is quiet.
LONGEST_MS = 20.0
HOPELESS = 50  # times slower than float32 in a trial: not a busy machine, but no fast product
NO_SUCH_PRODUCT = (AttributeError, NotImplementedError, RuntimeError)  # raised for a type on a device


@dataclass
class KernelGroup:
    """Equivalent kernels, and the best rate seen.

    They are kept with their memory, since creating them takes longer than measuring them.

    Attributes:
        make: Creates the kernels.
        amount: Operations or bytes of one call.
        kernels: The kernels, once created.
        best_per_s: The best rate so far.
    """

    make: Callable[[], Sequence[Kernel]]
    amount: float
    kernels: Sequence[Kernel] = ()
    best_per_s: float = 0.0


class CeilingBench:
    """The ceilings of one device: the best of all measurements, not the typical one."""

    def __init__(
        self,
        name: str,
        place: str,
        sizes: Sizes,
        time_call: TimeCall,
        *,
        working: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """
        Args:
            name: The device's name in reports.
            place: The device's name in PyTorch.
            sizes: Sizes of the kernels.
            time_call: Times one call on the device.
            working: Inside it, kernels run on the stream that `time_call` times.
        """
        self._name = name
        self._place = place
        self._sizes = sizes
        self._time_call = time_call
        self._working = working
        size_bytes = sizes.buffer_bytes
        self._memory = (
            KernelGroup(lambda: [large_copy(size_bytes, place)], amount=2 * size_bytes),  # read and written
            KernelGroup(lambda: [large_read(size_bytes, place)], amount=size_bytes),
        )
        self._trials = {kind: self._product(kind, sizes.sides[0]) for kind in TYPES}
        self._products: dict[str, KernelGroup] = {}  # by type

    def roofs(self, seconds: float) -> list[Roof]:
        """Measure each kernel for about `seconds`.

        Returns:
            The ceilings of each type that has a fast product, by this measurement and all before.
        """
        with self._working():
            for group in self._memory:
                self._measure(group, seconds)
            self._select_types(seconds / 10)
            for group in self._products.values():
                with suppress(*NO_SUCH_PRODUCT):
                    self._measure(group, seconds)
        rates = {kind: self._products[kind].best_per_s for kind in TYPES if kind in self._products}
        bytes_per_s = max(group.best_per_s for group in self._memory)
        return [
            Roof(device=self._name, computes_in=kind, operations_per_s=rate, bytes_per_s=bytes_per_s)
            for kind, rate in rates.items()
            if kind == FLOAT32 or rate > rates[FLOAT32]
        ]

    def _select_types(self, seconds: float) -> None:
        """Select types worth measuring. A trial is rough: a type that comes near float32 in it may be faster.

        A type that does not may have been measured while the machine was busy, and gets another trial later.
        """
        in_float32 = self._trials[FLOAT32]  # has its own trial first
        for kind, trial in self._trials.items():
            is_hopeless = trial.kernels and trial.best_per_s < in_float32.best_per_s / HOPELESS
            if kind in self._products or is_hopeless:
                continue
            with suppress(*NO_SUCH_PRODUCT):
                self._measure(trial, seconds)
            if trial.best_per_s >= in_float32.best_per_s / 2:
                self._products[kind] = self._product(kind, self._side(trial.best_per_s))

    def _product(self, kind: str, side: int) -> KernelGroup:
        """Prepare a product; a multiply-add is two operations."""
        return KernelGroup(lambda: products(kind, side, self._place), amount=2 * side**3)

    def _side(self, operations_per_s: float) -> int:
        """Return the largest side whose product is short enough."""
        sides = self._sizes.sides
        return max(
            (side for side in sides if 1e3 * 2 * side**3 / operations_per_s <= LONGEST_MS), default=sides[0]
        )

    def _measure(self, group: KernelGroup, seconds: float) -> None:
        group.kernels = group.kernels or group.make()
        best_ms = min(self._best_ms(kernel, seconds) for kernel in group.kernels)
        group.best_per_s = max(group.best_per_s, group.amount / (best_ms / 1e3))

    def _best_ms(self, kernel: Kernel, seconds: float) -> float:
        kernel()  # touches its memory, selects its implementation, and wakes the device
        tries: list[float] = []
        started = time.perf_counter()
        while len(tries) < 3 or time.perf_counter() - started < seconds:
            tries.append(self._time_call(kernel))
        return min(tries)


def products(kind: str, side: int, place: str) -> list[Kernel]:
    """Make square matrix products of a type.

    PyTorch's, with the second factor by rows and by columns, since either may be faster. On a CPU also ONNX
    Runtime's: some builds of PyTorch and NumPy reach half of what the CPU can in float32.

    Args:
        kind: A type of `TYPES`.
        side: Rows and columns.
        place: The device's name in PyTorch.
    """
    dtype = TYPES[kind]
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(-64, 64, (2, side, side), generator=generator).to(place, dtype)
    left, right = numbers[0], numbers[1]
    multiply: Any = torch._int_mm if kind == "i8" else torch.mm
    found: list[Kernel] = [lambda: multiply(left, right), lambda: multiply(left, right.t())]
    if place == "cpu" and kind in ("f32", "i8"):
        found.append(_of_onnxruntime(left.numpy(), right.numpy()))
    return found


def _of_onnxruntime(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> Kernel:
    """Make a product with a constant second factor, which is packed beforehand as weights are."""
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


def large_copy(size_bytes: int, place: str) -> Kernel:
    """Make a copy between two buffers, both far larger than any cache."""
    source = torch.ones(size_bytes // 4, dtype=torch.float32, device=place)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def large_read(size_bytes: int, place: str) -> Kernel:
    """Make a read of a whole buffer that writes almost nothing."""
    source = torch.ones(size_bytes // 4, dtype=torch.float32, device=place)
    return lambda: source.sum()


def ceilings_of_device(gpu: Gpu | None) -> CeilingBench:
    """Prepare to measure the ceilings of a GPU, or of the CPU if `gpu` is None.

    Raises:
        EngineError: PyTorch does not see that GPU.
    """
    if gpu is None:
        return CeilingBench("CPU", "cpu", ON_CPU, time_on_host)
    device = CudaDevice(gpu)
    torch.backends.cuda.matmul.allow_tf32 = False  # its products would not be FP32
    place, time_call = f"cuda:{device.index}", event_timer(device.event)
    return CeilingBench(device.name, place, ON_GPU, time_call, working=device.working)
