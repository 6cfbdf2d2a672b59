"""A fake `nvidia-smi` command, first on PATH, whose output the test chooses."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from .programs import hide, install

# (index, name, compute capability, driver, memory in MiB or None for a GPU without its own memory)
GpuRow = tuple[int, str, str, str, int | None]
H100: GpuRow = (0, "NVIDIA H100 80GB HBM3", "9.0", "580.95.05", 81559)
L4: GpuRow = (0, "NVIDIA L4", "8.9", "580.95.05", 23034)
# Output and exit code if the kernel module is not loaded, and if it has another version than the library.
NO_DRIVER_LOADED = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.",
    9,
)
VERSION_MISMATCH = ("Failed to initialize NVML: Driver/library version mismatch", 18)


def fake_nvidia_smi(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: Sequence[GpuRow] = (H100,), cuda: str = "13.0"
) -> Path:
    """Install a command that lists these GPUs (`--query-gpu`) or prints the table with the CUDA version."""
    rows = "\n".join(
        f"{index}, {name}, {capability}, {driver}, {'[N/A]' if memory_mib is None else memory_mib}"
        for index, name, capability, driver, memory_mib in gpus
    )
    driver = gpus[0][3] if gpus else "580.95.05"
    bar = "+" + "-" * 89 + "+"
    head = f"| NVIDIA-SMI {driver:<22} Driver Version: {driver:<14} CUDA Version: {cuda:<8}|"
    table = "\n".join(("Mon Nov 23 12:00:00 2026", bar, head, bar))
    return install_nvidia_smi(
        monkeypatch,
        tmp_path,
        f"case \"$1\" in\n--query-gpu=*) printf '%s\\n' {shlex.quote(rows)} ;;\n"
        f"*) printf '%s\\n' {shlex.quote(table)} ;;\nesac",
    )


def failing_nvidia_smi(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str = NO_DRIVER_LOADED[0], code: int = 9
) -> Path:
    """Install a command that prints one line and fails."""
    return install_nvidia_smi(monkeypatch, tmp_path, f"printf '%s\\n' {shlex.quote(said)}\nexit {code}")


def hanging_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Install a command that never ends; shorten `alexnet_model.gpus.DEADLINE_S` too."""
    return install_nvidia_smi(monkeypatch, tmp_path, "exec sleep 600")


def no_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the command from PATH, on a machine that has it too."""
    hide(monkeypatch, tmp_path, "nvidia-smi")


def install_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> Path:
    """Install a shell script as `nvidia-smi`."""
    return install(monkeypatch, tmp_path, "nvidia-smi", script)
