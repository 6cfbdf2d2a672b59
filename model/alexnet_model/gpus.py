"""The NVIDIA GPUs of this machine, as their driver's own tool, `nvidia-smi`, lists them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

QUERY = ("index", "name", "compute_cap", "driver_version", "memory.total")
DEADLINE_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU. `compute_capability` such as `9.0`, `driver` such as `580.95.05`."""

    index: int
    name: str
    compute_capability: str
    driver: str
    memory_mib: int

    @property
    def target(self) -> str:
        """Its architecture as compilers name it, such as `sm90`."""
        return f"sm{self.compute_capability.replace('.', '')}"

    def __str__(self) -> str:
        return f"{self.name} ({self.compute_capability}, driver {self.driver})"


@dataclass(frozen=True, kw_only=True)
class GpuSurvey:
    """What was found. Without GPUs `problem` says why: no driver, or what the driver's tool said."""

    gpus: tuple[Gpu, ...] = ()
    cuda: str | None = None  # the newest CUDA that the driver supports, such as 13.0
    problem: str = ""

    @property
    def kinds(self) -> tuple[Gpu, ...]:
        """One GPU of each compute capability: what engines are built for."""
        return tuple({gpu.compute_capability: gpu for gpu in reversed(self.gpus)}.values())[::-1]


def gpus_here() -> GpuSurvey:
    """Ask `nvidia-smi`; a machine without it has no driver and so no usable GPU."""
    try:
        listed = _nvidia_smi(f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits")
        header = _nvidia_smi()
    except FileNotFoundError:
        return GpuSurvey(problem="no NVIDIA driver (nvidia-smi is not there)")
    except subprocess.TimeoutExpired:
        return GpuSurvey(problem=f"nvidia-smi did not answer in {DEADLINE_S:g} s")
    except subprocess.CalledProcessError as error:
        said = (error.stdout or error.stderr or "").strip().splitlines()
        return GpuSurvey(problem=said[0] if said else f"nvidia-smi ended with {error.returncode}")
    try:
        gpus = tuple(_gpu_from_row(row) for row in listed.splitlines() if row.strip())
    except ValueError:
        return GpuSurvey(problem=f"nvidia-smi answered {listed.strip().splitlines()[0]!r}")
    # "CUDA Version: 13.0" in the table's head; newer drivers say "CUDA UMD Version".
    cuda = re.search(r"CUDA (?:UMD )?Version\s*:\s*([\d.]+)", header)
    return GpuSurvey(
        gpus=gpus, cuda=cuda[1] if cuda else None, problem="" if gpus else "nvidia-smi lists no GPU"
    )


def version_tuple(version: str) -> tuple[int, ...]:
    """`580.95.05` to `(580, 95, 5)`, for comparing; what is no number ends it."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _nvidia_smi(*arguments: str) -> str:
    return subprocess.run(
        ["nvidia-smi", *arguments],  # noqa: S607 (found on PATH, as the driver installs it)
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
        timeout=DEADLINE_S,
        stdin=subprocess.DEVNULL,
    ).stdout


def _gpu_from_row(row: str) -> Gpu:
    index, name, compute_capability, driver, memory_mib = (cell.strip() for cell in row.split(","))
    if not re.fullmatch(r"\d+\.\d+", compute_capability):
        raise ValueError(compute_capability)
    return Gpu(
        index=int(index),
        name=name,
        compute_capability=compute_capability,
        driver=driver,
        memory_mib=int(memory_mib),
    )
