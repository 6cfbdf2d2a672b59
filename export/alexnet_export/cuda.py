"""One GPU's memory, stream and graphs, through PyTorch: what an engine needs besides TensorRT."""

from __future__ import annotations

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
    """Where an engine's buffers lie. Tests have one in host memory."""

    name: str
    stream: int  # a CUDA stream's handle

    def make_current(self) -> None:
        """TensorRT builds, loads and runs on the current device."""

    def buffer(self, shape: tuple[int, ...], dtype: str) -> Any: ...

    def address(self, buffer: Any) -> int: ...

    def upload(self, images: AnyArray, buffer: Any) -> None:
        """Copy into the buffer's first rows."""

    def move(self, source: Any, buffer: Any) -> None:
        """Put a copy on the stream, from one buffer to another's first rows, without waiting for it."""

    def download(self, buffer: Any, rows: int) -> AnyArray:
        """Wait for the stream, and copy the buffer's first rows out."""

    def captured(self, launch: Callable[[], None]) -> Callable[[], None]:
        """Record what `launch` puts on the stream; the result replays it."""


class CudaDevice:
    """A GPU of this machine.

    Raises (on construction):
        MissingExtra: PyTorch is not installed.
        EngineError: PyTorch was built without CUDA, or does not see that GPU.
    """

    def __init__(self, gpu: Gpu) -> None:
        with needs("export"):
            import torch
        if not torch.cuda.is_available():
            raise _no_cuda(gpu, torch)
        self._torch = torch
        self.index = _index_of(gpu, torch)  # CUDA's own number of it
        self._device = torch.device("cuda", self.index)
        self._stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self.name = gpu.name
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
        """What PyTorch is asked to do inside goes on this device's stream."""
        stream: AbstractContextManager[None] = self._torch.cuda.stream(self._stream)
        return stream

    def event(self) -> Any:
        """A mark on the stream, which knows its time once the stream has come to it."""
        event: Any = self._torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def free_bytes(self) -> int:
        """Of the GPU's memory, as its driver counts it, whoever holds the rest."""
        return int(self._torch.cuda.mem_get_info(self._device)[0])

    def download(self, buffer: Any, rows: int) -> AnyArray:
        self._stream.synchronize()
        copied: AnyArray = buffer[:rows].cpu().numpy()
        return copied

    def captured(self, launch: Callable[[], None]) -> Callable[[], None]:
        launch()  # TensorRT settles its own state on the first run, which may not be captured
        self._stream.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        # Only this thread's calls: TensorRT-RTX may compile kernels on others meanwhile.
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
            expected="one with CUDA, to run engines with",
            next_step="Install PyTorch for CUDA: pip install --force-reinstall torch",
        )
    return EngineError(
        "PyTorch",
        got=f"no GPU that its CUDA {torch.version.cuda} can use with driver {gpu.driver}",
        expected=gpu.name,
        next_step="Update the driver, or see CUDA_VISIBLE_DEVICES.",
    )


def contiguous(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Writable and in one piece, as PyTorch wants to see foreign memory."""
    return np.require(images, requirements=["C", "W"])


def _index_of(gpu: Gpu, torch: Any) -> int:
    """CUDA numbers GPUs by speed, `nvidia-smi` by slot: go by name and capability."""
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        same_capability = f"{major}.{minor}" == gpu.compute_capability
        if same_capability and torch.cuda.get_device_name(index) == gpu.name:
            return index
    raise EngineError(
        "PyTorch",
        got=f"no {gpu.name} among the GPUs that it sees",
        expected="the GPU that nvidia-smi lists",
        next_step="See CUDA_VISIBLE_DEVICES.",
    )
