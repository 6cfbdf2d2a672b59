"""A GPU for machines without one: PyTorch tensors in this machine's own memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


class HostGpu:
    """A `CudaDevice` in this machine's memory, whose graphs call again what they captured."""

    name = "NVIDIA H100"
    compute_capability = "9.0"
    index = 0
    stream = 1

    def __init__(self) -> None:
        self.captures = 0

    def make_current(self) -> None: ...

    def working(self) -> AbstractContextManager[None]:
        return nullcontext()

    def free_bytes(self) -> int:
        return 5_000_000

    def buffer(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        return torch.zeros(shape, dtype=getattr(torch, dtype))

    def address(self, buffer: torch.Tensor) -> int:
        return buffer.data_ptr()

    def upload(self, images: Any, buffer: torch.Tensor) -> None:
        buffer[: len(images)] = torch.from_numpy(images)

    def move(self, source: torch.Tensor, buffer: torch.Tensor) -> None:
        buffer[: len(source)] = source

    def download(self, buffer: torch.Tensor, rows: int) -> Any:
        return buffer[:rows].clone().numpy()

    def captured(self, launch: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        return launch
