"""Where a result comes from: machine, other load, versions and commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from alexnet_model.environment import machine_name, versions_of
from alexnet_model.gpus import gpus_here
from alexnet_model.records import Record

_DISTRIBUTIONS = (
    *("aiohttp", "alexnet-serving", "grpcio", "numpy", "nvidia-pytriton", "onnxruntime", "onnxruntime-gpu"),
    *("openvino", "pillow", "tensorrt", "tensorrt-rtx", "torch", "tritonclient"),
)
_GPU_CLOCKS = ("clocks.sm", "clocks.mem", "clocks.max.sm")
_GPU_FIELDS = (*_GPU_CLOCKS, "power.limit", "temperature.gpu", "utilization.gpu")
# The vector instructions that decide how fast a CPU multiplies, by Linux's names.
_AVX = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16")
_VECTORS = (*_AVX, "amx_int8", "amx_bf16")
_CPUINFO = Path("/proc/cpuinfo")


class GpuState(Record):
    """One GPU. The readings are as nvidia-smi prints them, such as `1980 MHz`."""

    name: str
    compute_capability: str
    driver: str
    readings: dict[str, str]


class Environment(Record):
    """The machine when the run began. Figures are comparable only between equal `machine` and `gpus`."""

    machine: str
    cpu: dict[str, str]  # its clock and its vector instructions, by Linux's names
    memory_gb: float
    kernel: str
    gpus: tuple[GpuState, ...]
    versions: dict[str, str]
    load_1_min: float  # the load average before the run
    commit: str  # of the source tree, `+changes` if files differ from it; empty outside of one
    date: str  # UTC

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices: only figures with equal devices are comparable."""
        return (self.machine, *(gpu.name for gpu in self.gpus))


def environment_here() -> Environment:
    """Read the environment. What cannot be read is left out."""
    return Environment(
        machine=machine_name(),
        cpu=cpu_facts(),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        kernel=platform.release(),
        gpus=tuple(
            GpuState(
                name=gpu.name,
                compute_capability=gpu.compute_capability,
                driver=gpu.driver,
                readings=_readings(index),
            )
            for index, gpu in enumerate(gpus_here().gpus)
        ),
        versions=versions_of(*_DISTRIBUTIONS),
        load_1_min=round(os.getloadavg()[0], 2),
        commit=commit_of(Path(__file__).parent),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def cpu_facts(cpuinfo: Path = _CPUINFO) -> dict[str, str]:
    """Return clock and vector instructions of the first core; empty on systems other than Linux."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    facts = {}
    if "cpu MHz" in fields:
        facts["CPU clock"] = f"{float(fields['cpu MHz']):.0f} MHz"
    if "flags" in fields:
        flags = fields["flags"].split()
        facts["CPU vectors"] = ", ".join(flag for flag in _VECTORS if flag in flags) or "older than AVX2"
    return facts


def commit_of(folder: Path) -> str:
    """Return the commit of the source tree of a folder, with `+changes` if files differ from it."""
    commit = _output(["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"])
    changed = _output(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return f"{commit}+changes" if commit and changed else commit


def _readings(index: int) -> dict[str, str]:
    query = ["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"]
    values = [value.strip() for value in _output(query).split(",")]
    return dict(zip(_GPU_FIELDS, values, strict=True)) if len(values) == len(_GPU_FIELDS) else {}


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
