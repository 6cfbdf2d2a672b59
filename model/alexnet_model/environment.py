"""The machine and the versions that a result was produced with."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

# Of the flags in /proc/cpuinfo: those that `-march=native` of a C++ compiler turns on.
COMPILED_FOR = re.compile(
    r"(sse|ssse|avx|amx|asimd|sve|sme)\w*|fma4?|f16c|bmi[12]|abm|movbe|adx|popcnt|aes|vaes|pclmulqdq|"
    r"vpclmulqdq|gfni|sha_ni|bf16|i8mm|fphp"
)


def machine_name() -> str:
    """Return the processor and the number of cores this process may use, such as `AMD EPYC 9B14, 2 cores`."""
    names = [
        line.partition(":")[2].strip()
        for line in _lines(Path("/proc/cpuinfo"))
        if line.startswith("model name")
    ]
    cores = len(os.sched_getaffinity(0))
    return f"{names[0] if names else platform.machine()}, {cores} core{'' if cores == 1 else 's'}"


def cpu_extensions() -> tuple[str, ...]:
    """Return the instruction sets of this processor that a compiler may use, such as `avx2`, sorted."""
    flags = {
        flag
        for line in _lines(Path("/proc/cpuinfo"))
        if line.partition(":")[0].strip() in ("flags", "Features")  # of x86 and of Arm
        for flag in line.partition(":")[2].split()
    }
    return tuple(sorted(filter(COMPILED_FOR.fullmatch, flags)))


def versions_of(*distributions: str) -> dict[str, str]:
    """Return the versions of Python and of installed distributions.

    Args:
        distributions: names on PyPI; those that are not installed are left out.
    """
    versions = {"python": platform.python_version()}
    for name in distributions:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
