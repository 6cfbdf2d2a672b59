"""Measure the ceilings of a device: large matrix products in each type, a large copy and a large read.

Which product is fastest depends on the type, its size and its layout: cuBLASLt, for one, wants the second
factor of an INT8 product by columns. So several of each type are tried once, and the best are measured again
throughout a run, since a shared machine may be slow for minutes. The best rate counts.

A CPU reads weights faster than it copies: a copy also fetches the memory that it overwrites, which is not
counted.

A type whose product is no faster than float32's has no fast product in these libraries, and gets no ceiling:
engines bring their own kernels for it, so its limit is unknown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from statistics import median
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


@dataclass(frozen=True)
class Shape:
    """A product of `(rows, inner)` and `(inner, rows)`; a multiply-add is two operations."""

    rows: int
    inner: int

    @property
    def operations(self) -> int:
        return 2 * self.rows * self.rows * self.inner


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the kernels.

    Attributes:
        shapes: Shapes of products. The smallest comes first: it is the trial of a type, so that a type
            without a fast product costs little time.
        buffer_bytes: Size of the buffer that is copied and read.
    """

    shapes: tuple[Shape, ...]
    buffer_bytes: int


ON_CPU = Sizes(shapes=tuple(Shape(side, side) for side in (512, 1024, 2048, 4096)), buffer_bytes=256 << 20)
# The deep ones write few results for their operations: an INT8 product writes four bytes for each of them.
ON_GPU = Sizes(
    shapes=(
        *(Shape(side, side) for side in (2048, 4096, 8192, 16384)),
        *(Shape(4096, 16384), Shape(8192, 32768)),
    ),
    buffer_bytes=1 << 30,
)
# Longest product: it fills the device, and is short enough that some of many run while the machine is quiet.
LONGEST_MS = 20.0
KEPT = 3  # products of a type that are measured throughout a run
# The calibration workload of a GPU: the median of some slices, after one that wakes it.
CONTROL = Shape(4096, 4096)
CONTROL_CALLS = 10
CONTROL_SLICES = 5
# Times slower than float32, or than its type's fastest product, in a trial: no fast product, on any machine.
HOPELESS = 50
NO_SUCH_PRODUCT = (AttributeError, NotImplementedError, RuntimeError)  # raised for a type, or without memory


@dataclass
class RatedKernel:
    """A kernel, the operations or bytes of one call, and the best rate seen.

    `way` is its place in the list that `products` returns for every shape.
    """

    call: Kernel
    amount: float
    best_per_s: float = 0.0
    way: int = 0


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
        self._memory: list[RatedKernel] = []
        self._trials: dict[str, list[RatedKernel]] = {}  # by type
        self._products: dict[str, list[RatedKernel]] = {}  # by type, of types worth measuring
        self._control: Kernel | None = None

    def roofs(self, seconds: float) -> list[Roof]:
        """Measure each kernel for about `seconds`.

        Returns:
            The ceilings of each type that has a fast product, by this measurement and all before.
        """
        with self._working():
            if not self._memory:
                size_bytes = self._sizes.buffer_bytes
                self._memory = [
                    RatedKernel(large_copy(size_bytes, self._place), 2 * size_bytes),  # read and written
                    RatedKernel(large_read(size_bytes, self._place), size_bytes),
                ]
            self._measure(self._memory, seconds)
            self._select_types(seconds / 10)
            for kernels in self._products.values():
                self._measure(kernels, seconds)
        rates = {kind: _best(self._products[kind]) for kind in TYPES if kind in self._products}
        return [
            Roof(
                device=self._name,
                computes_in=kind,
                operations_per_s=rate,
                bytes_per_s=_best(self._memory),
            )
            for kind, rate in rates.items()
            if kind == FLOAT32 or rate > rates[FLOAT32]
        ]

    def control_rate(self) -> float:
        """Return the operations per second of a fixed float32 product: the device is busy if it falls."""
        with self._working():
            control = self._control = self._control or products(FLOAT32, CONTROL, self._place)[0]

            def one_slice() -> None:
                for _ in range(CONTROL_CALLS):
                    control()

            one_slice()
            took_ms = median(self._time_call(one_slice) for _ in range(CONTROL_SLICES))
        return CONTROL.operations * CONTROL_CALLS / (took_ms / 1e3)

    def _select_types(self, seconds: float) -> None:
        """Select types worth measuring. A trial is rough: a type that comes near float32 in it may be faster.

        A type that does not may have been measured while the machine was busy, and gets another trial later.
        """
        trial = self._sizes.shapes[0]
        for kind in TYPES:  # float32 first
            if kind not in self._trials:
                self._trials[kind] = self._products_of(kind, trial)
            kernels = self._trials[kind]
            in_float32 = _best(self._trials[FLOAT32])
            is_hopeless = 0 < _best(kernels) < in_float32 / HOPELESS
            if not kernels or kind in self._products or is_hopeless:
                continue
            self._measure(kernels, seconds)
            if _best(kernels) >= _best(self._trials[FLOAT32]) / 2:
                self._products[kind] = self._fastest(kind, _best(kernels), seconds)

    def _fastest(self, kind: str, operations_per_s: float, seconds: float) -> list[RatedKernel]:
        """Try all shapes that are short enough at this rate, and return the fastest products.

        Ways that were hopeless in the trial are left out: on CPUs without VNNI instructions, PyTorch's INT8
        product takes a second where ONNX Runtime's takes a millisecond.
        """
        tried = self._trials[kind]
        hopeless = {kernel.way for kernel in tried if kernel.best_per_s < operations_per_s / HOPELESS}
        for shape in self._sizes.shapes[1:]:
            if 1e3 * shape.operations / operations_per_s <= LONGEST_MS:
                kernels = [kernel for kernel in self._products_of(kind, shape) if kernel.way not in hopeless]
                self._measure(kernels, seconds)
                tried = sorted((*tried, *kernels), key=lambda kernel: -kernel.best_per_s)[:KEPT]
        return tried

    def _products_of(self, kind: str, shape: Shape) -> list[RatedKernel]:
        """Make the products of a type and shape that this device has."""
        with suppress(*NO_SUCH_PRODUCT):
            calls = products(kind, shape, self._place)
            return [RatedKernel(call, shape.operations, way=way) for way, call in enumerate(calls)]
        return []

    def _measure(self, kernels: list[RatedKernel], seconds: float) -> None:
        """Measure each kernel for about `seconds`; those that do not run are removed."""
        for kernel in tuple(kernels):
            try:
                best_s = self._best_ms(kernel.call, seconds) / 1e3
                kernel.best_per_s = max(kernel.best_per_s, kernel.amount / best_s)
            except NO_SUCH_PRODUCT:
                if not kernel.best_per_s:
                    kernels.remove(kernel)

    def _best_ms(self, kernel: Kernel, seconds: float) -> float:
        kernel()  # touches its memory, selects its implementation, and wakes the device
        tries: list[float] = []
        started = time.perf_counter()
        while len(tries) < 3 or time.perf_counter() - started < seconds:
            tries.append(self._time_call(kernel))
        return min(tries)


def _best(kernels: Sequence[RatedKernel]) -> float:
    return max((kernel.best_per_s for kernel in kernels), default=0.0)


def products(kind: str, shape: Shape, place: str) -> list[Kernel]:
    """Make matrix products of a type.

    PyTorch's, with the second factor by rows and by columns, since either may be faster. On a CPU also ONNX
    Runtime's: some builds of PyTorch and NumPy reach half of what the CPU can in float32. On a GPU by cuBLAS
    and by cuBLASLt.

    Args:
        kind: A type of `TYPES`.
        shape: The shape of the factors.
        place: The device's name in PyTorch.
    """
    # Only zeros and ones: numbers that change few bits need little power, which else lowers a GPU's clock.
    # An engine with many zeros, as after ReLU, would then be faster than its limit.
    generator = torch.Generator(place).manual_seed(0)
    left = torch.randint(0, 2, (shape.rows, shape.inner), generator=generator, device=place).to(TYPES[kind])
    right = torch.randint(0, 2, (shape.inner, shape.rows), generator=generator, device=place).to(TYPES[kind])
    by_columns = right.t().contiguous().t()
    multiply: Any = torch._int_mm if kind == "i8" else torch.mm
    found: list[Kernel] = [lambda: multiply(left, right), lambda: multiply(left, by_columns)]
    if place == "cpu" and kind in ("f32", "i8"):
        found.append(_of_onnxruntime(left.numpy(), right.numpy()))
    if place != "cpu" and kind != "i8":  # PyTorch computes INT8 products by cuBLASLt alone
        found = [_by_library(kernel, kind, name) for kernel in found for name in ("cublas", "cublaslt")]
    return found


def _by_library(kernel: Kernel, kind: str, library: str) -> Kernel:
    """Compute a product by a library; in half precision with sums in half too, as TensorRT may compute them.

    GPUs for games are twice as fast with such sums.
    """
    matmul: Any = torch.backends.cuda.matmul

    def call() -> object:
        torch.backends.cuda.preferred_blas_library(library)
        if hasattr(matmul, "allow_fp16_accumulation"):  # PyTorch 2.7
            matmul.allow_fp16_accumulation = kind == "f16" and library == "cublaslt"
        return kernel()

    return call


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
