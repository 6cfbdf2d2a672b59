"""One GPU's memory, stream and CUDA graphs, through PyTorch: what an engine needs besides TensorRT."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from alexnet_model.errors import EngineError
from alexnet_model.extras import needs
from alexnet_model.gpus import Gpu

AnyArray = npt.NDArray[Any]


class Device(Protocol):
    """Memory and stream for an engine's buffers. Tests use one in host memory."""

    name: str
    index: int  # CUDA's number of the GPU
    stream: int  # a CUDA stream's handle

    def make_current(self) -> None:
        """Make this the current CUDA device, on which TensorRT builds, loads and runs."""

    def buffer(self, shape: tuple[int, ...], dtype: str) -> Any: ...

    def address(self, buffer: Any) -> int: ...

    def upload(self, images: AnyArray, buffer: Any) -> None:
        """Copy images into the buffer's first rows."""

    def move(self, source: Any, buffer: Any) -> None:
        """Put on the stream a copy from one buffer to the first rows of another; do not wait for it."""

    def download(self, buffer: Any, rows: int) -> AnyArray:
        """Wait for the stream, and return a copy of the buffer's first rows."""

    def captured(self, launch: Callable[[], None]) -> Callable[[], None]:
        """Capture what `launch` puts on the stream in a CUDA graph; return a function that replays it."""


class CudaDevice:
    """A GPU of this machine.

    Args:
        gpu: The GPU, as `nvidia-smi` reports it.

    Attributes:
        index: CUDA's number of it, which may differ from that of `nvidia-smi`.
        name: Its name, such as `NVIDIA H100`.
        compute_capability: Such as `9.0`.
        stream: The handle of the CUDA stream that this object uses.

    Raises (on construction):
        MissingExtra: PyTorch is not installed.
        EngineError: PyTorch was built without CUDA, or does not see that GPU.
    """

    def __init__(self, gpu: Gpu) -> None:
        with needs("export"):
            import torch
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of an old driver, which the error names
            available = torch.cuda.is_available()
        if not available:
            raise _no_cuda(gpu, torch)
        self._torch = torch
        self.index = _index_of(gpu, torch)
        self._device = torch.device("cuda", self.index)
        self._stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self.name = gpu.name
        self.compute_capability = gpu.compute_capability
        self.stream = int(self._stream.cuda_stream)

    def make_current(self) -> None:
        self._torch.cuda.set_device(self._device)

    def buffer(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self._torch.empty(shape, dtype=getattr(self._torch, dtype), device=self._device)

    def address(self, buffer: Any) -> int:
        return int(buffer.data_ptr())

    def upload(self, images: AnyArray, buffer: Any) -> None:
        with self.working():
            buffer[: len(images)].copy_(self._torch.from_numpy(images))

    def move(self, source: Any, buffer: Any) -> None:
        with self.working():
            buffer[: len(source)].copy_(source)

    def working(self) -> AbstractContextManager[None]:
        """Make PyTorch use this device's stream inside the `with`."""
        stream: AbstractContextManager[None] = self._torch.cuda.stream(self._stream)
        return stream

    def event(self) -> Any:
        """Record a timing event on the stream."""
        event: Any = self._torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def free_bytes(self) -> int:
        """Return the GPU's free memory in bytes, as its driver counts it over all processes."""
        return int(self._torch.cuda.mem_get_info(self._device)[0])

    def download(self, buffer: Any, rows: int) -> AnyArray:
        self._stream.synchronize()
        copied: AnyArray = buffer[:rows].cpu().numpy()
        return copied

    def captured(self, launch: Callable[[], None]) -> Callable[[], None]:
        launch()  # TensorRT initialises state on the first run, which cannot be captured
        self._stream.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        # Only this thread's calls: TensorRT-RTX may compile kernels on others at the same time.
        with self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            launch()

        def replay() -> None:
            with self.working():
                graph.replay()

        return replay


def _no_cuda(gpu: Gpu, torch: Any) -> EngineError:
    if torch.version.cuda is None:
        return EngineError(
            "PyTorch",
            got=f"{torch.__version__}, a build without CUDA",
            expected="one with CUDA, which engines need",
            next_step="Install PyTorch for CUDA: pip install --force-reinstall torch",
        )
    return EngineError(
        "PyTorch",
        got=f"no GPU that its CUDA {torch.version.cuda} can use with driver {gpu.driver}",
        expected=gpu.name,
        next_step="Update the driver, or check CUDA_VISIBLE_DEVICES.",
    )


def contiguous(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the images writable and contiguous, as `torch.from_numpy` needs them."""
    return np.require(images, requirements=["C", "W"])


def _index_of(gpu: Gpu, torch: Any) -> int:
    """Find a GPU by name and capability: CUDA numbers GPUs by speed, `nvidia-smi` by slot."""
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        same_capability = f"{major}.{minor}" == gpu.compute_capability
        if same_capability and torch.cuda.get_device_name(index) == gpu.name:
            return index
    raise EngineError(
        "PyTorch",
        got=f"no {gpu.name} among the GPUs that it sees",
        expected="the GPU that nvidia-smi lists",
        next_step="Check CUDA_VISIBLE_DEVICES.",
    )
