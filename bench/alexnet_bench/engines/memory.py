"""What an engine takes: of the machine's memory its process's growth, of a GPU's what is no longer free."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

PROCESS = Path("/proc/self")
FORGET_PEAK = "5"  # proc(5), /proc/pid/clear_refs: the peak becomes what is resident now


class Memory(Protocol):
    """Made before an engine is loaded; all that the engine does is done inside `watched`."""

    def watched(self) -> AbstractContextManager[None]: ...

    def peak_bytes(self) -> int | None:
        """The most that was taken until now, by loading and earlier batches too; None where none can know."""


class HostMemory:
    """This process's resident memory: its peak less what it was. Weights mapped from a file count too."""

    def __init__(self, process: Path = PROCESS) -> None:
        self._status = process / "status"
        with contextlib.suppress(OSError):  # else the peak of importing libraries may count
            (process / "clear_refs").write_text(FORGET_PEAK, encoding="ascii")
        self._before = self._field("VmRSS")

    def watched(self) -> AbstractContextManager[None]:
        return nullcontext()

    def peak_bytes(self) -> int | None:
        peak = self._field("VmHWM")
        return None if peak is None or self._before is None else max(0, peak - self._before)

    def _field(self, name: str) -> int | None:
        """Linux gives kilobytes of 1,024 bytes; other systems have no such file."""
        try:
            lines = self._status.read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return None
        found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
        return int(found[0]) * 1024 if found else None


class DeviceMemory:
    """A GPU's, by what is free before and after: what others take in between is counted too.

    TensorRT and ONNX Runtime allocate past PyTorch, so PyTorch's own counters would not see them.
    """

    def __init__(self, free_bytes: Callable[[], int]) -> None:
        self._free_bytes = free_bytes
        self._taken = self._peak = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        before = self._free_bytes()
        yield
        self._taken += before - self._free_bytes()
        self._peak = max(self._peak, self._taken)

    def peak_bytes(self) -> int | None:
        return self._peak
