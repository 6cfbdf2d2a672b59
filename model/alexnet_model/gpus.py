"""Find the NVIDIA GPUs of this machine, with the driver's tool `nvidia-smi`."""

from __future__ import annotations

import contextlib
import re
import subprocess
from dataclasses import dataclass

from packaging.version import Version

from .errors import os_error_reason

QUERY = ("index", "name", "compute_cap", "driver_version", "memory.total")
DEADLINE_S = 20.0
KILLING_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU.

    Attributes:
        index: Its number for the driver.
        name: Such as `NVIDIA H200`.
        compute_capability: Such as `9.0`.
        driver: The driver's version, such as `580.95.05`.
        memory_mib: Its memory; None if it shares the memory of the processor.
    """

    index: int
    name: str
    compute_capability: str
    driver: str
    memory_mib: int | None

    @property
    def target(self) -> str:
        """Return its architecture as compilers name it, such as `sm90`."""
        return f"sm{self.compute_capability.replace('.', '')}"

    def __str__(self) -> str:
        return f"{self.name} ({self.compute_capability}, driver {self.driver})"


@dataclass(frozen=True, kw_only=True)
class GpuSurvey:
    """The GPUs of a machine.

    Attributes:
        gpus: The GPUs that can be used.
        cuda: The newest CUDA version that the driver supports, such as `13.0`.
        problem: Why there are none, or why one of several cannot be used; empty without a problem.
    """

    gpus: tuple[Gpu, ...] = ()
    cuda: str | None = None
    problem: str = ""

    @property
    def kinds(self) -> tuple[Gpu, ...]:
        """Return one GPU of each compute capability, for which engines are built."""
        return tuple({gpu.compute_capability: gpu for gpu in reversed(self.gpus)}.values())[::-1]


def gpus_here() -> GpuSurvey:
    """Return what `nvidia-smi` lists; without that program there is no driver and no usable GPU."""
    try:
        listed = _nvidia_smi(f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits")
    except FileNotFoundError:
        return GpuSurvey(problem="no NVIDIA driver (nvidia-smi is not installed)")
    except OSError as error:
        return GpuSurvey(problem=f"nvidia-smi does not run ({os_error_reason(error)})")
    except subprocess.TimeoutExpired:
        return GpuSurvey(problem=f"nvidia-smi did not end in {DEADLINE_S:g} s")
    except subprocess.CalledProcessError as error:
        said = (error.stdout.strip() or error.stderr.strip()).splitlines()
        return GpuSurvey(problem=said[0] if said else f"nvidia-smi ended with {error.returncode}")
    gpus: list[Gpu] = []
    problem = ""
    for row in filter(str.strip, listed.splitlines()):
        try:
            gpus.append(_gpu_from_row(row))
        except ValueError:  # one broken GPU must not hide the others
            problem = problem or f"nvidia-smi printed {row.strip()!r}"
    if not gpus:
        return GpuSurvey(problem=problem or "nvidia-smi lists no GPU")
    return GpuSurvey(gpus=tuple(gpus), cuda=_newest_cuda(), problem=problem)


def version_from_text(text: str) -> Version:
    """Return the version at the start of a text such as `580.95.05` or `2.13.0+cpu`; 0 if there is none.

    Unlike `Version` itself this accepts every text, since a driver or an image may report anything.
    """
    found = re.match(r"\d+(?:\.\d+)*", text)
    return Version(found[0] if found else "0")


def _newest_cuda() -> str | None:
    """Return the version after `CUDA Version:` in the table's head (`CUDA UMD Version:` in newer drivers)."""
    try:
        found = re.search(r"CUDA (?:UMD )?Version\s*:\s*([\d.]+)", _nvidia_smi())
    except (OSError, subprocess.SubprocessError):
        return None
    return found[1] if found else None


def _nvidia_smi(*arguments: str) -> str:
    """Run `nvidia-smi` and return its standard output, without waiting for a process that cannot be killed.

    A driver that hangs keeps its callers inside the kernel, where no signal reaches them, and
    `subprocess.run` would wait until they end.
    """
    command = ["nvidia-smi", *arguments]  # found on PATH, as the driver installs it
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        stdout, stderr = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILLING_S)
        raise
    finally:
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stdout, stderr)
    return stdout


def _gpu_from_row(row: str) -> Gpu:
    index, name, compute_capability, driver, memory_mib = (cell.strip() for cell in row.split(","))
    if not re.fullmatch(r"\d+\.\d+", compute_capability):
        raise ValueError(compute_capability)
    return Gpu(
        index=int(index),
        name=name,
        compute_capability=compute_capability,
        driver=driver,
        memory_mib=None if memory_mib.startswith("[") else int(memory_mib),  # [N/A] or [Not Supported]
    )
