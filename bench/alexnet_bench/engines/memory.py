"""The memory of one engine in a process of its own.

On a CPU it is the growth of the process's resident memory. On a GPU it is the growth of what this process has
allocated there, as the driver or PyTorch counts it; only if neither does, what the whole GPU has less free.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from alexnet_export import CudaDevice
from alexnet_model.extras import needs

from ..schema import MemoryOf

QUERY_S = 10.0
PYTORCHS_OWN = frozenset({"pytorch", "torch.compile"})  # runtimes whose GPU memory PyTorch allocates


class Memory(Protocol):
    """Measures the memory of one engine; created before the engine is loaded.

    Attributes:
        of: Whose memory it measures.
    """

    of: MemoryOf

    def watched(self) -> AbstractContextManager[None]:
        """Enclose everything in which the engine may allocate memory."""

    def peak_bytes(self) -> int | None:
        """Return the most that was used so far, with loading and earlier batches; None if unknown."""


class HostMemory:
    """Growth of this process's resident memory: its peak less its size before. Mapped weights count too."""

    PROCESS = Path("/proc/self")
    FORGET_PEAK = "5"  # proc(5), /proc/pid/clear_refs: the peak becomes what is resident now
    of: MemoryOf = "process"

    def __init__(self, process: Path = PROCESS) -> None:
        self._status = process / "status"
        with contextlib.suppress(OSError):  # without it, the peak of importing libraries may count
            (process / "clear_refs").write_text(self.FORGET_PEAK, encoding="ascii")
        self._before = self._field("VmRSS")

    def watched(self) -> AbstractContextManager[None]:
        return nullcontext()

    def peak_bytes(self) -> int | None:
        peak = self._field("VmHWM")
        return None if peak is None or self._before is None else max(0, peak - self._before)

    def _field(self, name: str) -> int | None:
        """Read a size in bytes. Linux reports units of 1,024 bytes; other systems have no such file."""
        try:
            lines = self._status.read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return None
        found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
        return int(found[0]) * 1024 if found else None


class DeviceMemory:
    """Growth of the memory used on a GPU inside `watched`.

    Args:
        used_bytes: Returns what is used now, by this process or, if `of` is "device", by all programs.
        of: Whose memory that is.
    """

    def __init__(self, used_bytes: Callable[[], int], of: MemoryOf) -> None:
        self._used_bytes = used_bytes
        self.of = of
        self._taken = self._peak = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        before = self._used_bytes()
        yield
        self._taken += self._used_bytes() - before
        self._peak = max(self._peak, self._taken)

    def peak_bytes(self) -> int | None:
        return self._peak


def memory_on_gpu(device: CudaDevice, runtime: str) -> DeviceMemory:
    """Choose how to measure a runtime's memory on a GPU.

    The driver knows what each process has allocated, by PyTorch or otherwise. It does not list this process
    under its id in a container with process ids of its own.

    Args:
        device: The GPU, on which this process has a CUDA context already.
        runtime: Name of the runtime in the registry.
    """
    if bytes_by_driver() is not None:
        return DeviceMemory(_LastKnown(bytes_by_driver), "process")
    if runtime in PYTORCHS_OWN:
        with needs("export"):
            import torch
        return DeviceMemory(lambda: int(torch.cuda.memory_reserved(device.index)), "process")
    return DeviceMemory(lambda: -device.free_bytes(), "device")


class _LastKnown:
    """Return a reading, or the one before if there is none now, as when `nvidia-smi` is slow for once."""

    def __init__(self, read: Callable[[], int | None]) -> None:
        self._read = read
        self._last = 0

    def __call__(self) -> int:
        found = self._read()
        self._last = self._last if found is None else found
        return self._last


def bytes_by_driver() -> int | None:
    """Return what this process has allocated on GPUs, as `nvidia-smi` lists it; None if it does not."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=QUERY_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.split(",") for line in done.stdout.splitlines()]
    sizes_mib = [row[1].strip() for row in rows if len(row) == 2 and row[0].strip() == str(os.getpid())]
    if not sizes_mib or not all(size.isdecimal() for size in sizes_mib):  # such as [N/A]
        return None
    return sum(map(int, sizes_mib)) << 20
