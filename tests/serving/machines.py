"""Machines for the doctor: GPUs and Docker are stand-ins on PATH, everything else is this machine's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from alexnet_model.triton_image import CPU_IMAGE, TRITON_IMAGE
from alexnet_serving import Check, DoctorReport, diagnose
from alexnet_serving.doctor import checks, gpus
from alexnet_serving.doctor.checks import jobs

from ..stand_ins.docker import TENSORRT
from ..stand_ins.nvidia_smi import GpuRow, fake_nvidia_smi, no_nvidia_smi

NVIDIA_RUNTIME: dict[str, object] = {"Runtimes": {"runc": {}, "nvidia": {}}}
CDI_DEVICE: dict[str, object] = {
    "Runtimes": {"runc": {}},
    "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}],
}
NO_RUNTIME: dict[str, object] = {"Runtimes": {"runc": {}}, "DiscoveredDevices": None}


class Machine:
    """A machine with GPUs, Docker and an empty working folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.monkeypatch = monkeypatch
        self.folder = folder
        self.repository = folder / "model_repository"
        self.out = folder / "export"

    def gpus(self, *rows: GpuRow) -> None:
        if rows:
            fake_nvidia_smi(self.monkeypatch, self.folder, gpus=rows)
        else:
            no_nvidia_smi(self.monkeypatch, self.folder)

    def docker(
        self,
        *,
        info: object = NVIDIA_RUNTIME,
        images: Sequence[str] = (TRITON_IMAGE, CPU_IMAGE),
        tensorrt: str = TENSORRT,
    ) -> None:
        """A Docker engine with images; `info` as its own JSON."""
        image = [{"RepoDigests": [], "Id": "sha256:1", "Config": {"Env": [f"TRT_VERSION={tensorrt}"]}}]
        here = "".join(f"'{name}') echo '{json.dumps(image)}'; exit 0 ;;\n" for name in images)
        self.program(
            "docker",
            f"""case "$1" in
            version) echo 28.2.2 ;;
            info) echo '{json.dumps(info)}' ;;
            image) case "$3" in
                {here}
                *) echo "Error response from daemon: No such image: $3" >&2; exit 1 ;;
            esac ;;
            *) exit 64 ;;
            esac""",
        )

    def program(self, name: str, script: str) -> None:
        """Put a shell script first on PATH."""
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        self.monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")

    def without(self, name: str) -> None:
        """Hide a program that this machine may have."""
        which = shutil.which
        self.monkeypatch.setattr(
            gpus,
            "shutil",
            SimpleNamespace(which=lambda program: None if program == name else which(program)),
        )

    def diagnose(self) -> DoctorReport:
        found = diagnose(self.repository, self.out)
        check_consistent(found)
        return found


def check_consistent(found: DoctorReport) -> None:
    """Assert what holds on every machine."""
    names = [check.name for check in found.checks]
    assert len(set(names)) == len(names)
    for check in found.checks:
        assert check.found
        assert set(check.needed_by) <= set(jobs())
        if check.status == "missing":
            assert check.fix, check
        if check.status == "ok":
            assert not check.fix
        if check.found.startswith(
            "not checked"
        ):  # the failed check that it depends on stops the same commands
            assert all(not job.runs for job in found.jobs if job.command in check.needed_by), check
    assert [job.command for job in found.jobs] == list(jobs())
    for job in found.jobs:
        assert job.runs == (not job.missing)
    assert found.main_job.runs == (not found.main_job.first_fix)
    assert DoctorReport.model_validate_json(found.model_dump_json()) == found


def named(found: DoctorReport, name: str) -> Check:
    (check,) = (check for check in found.checks if check.name == name)
    return check


def missed(found: DoctorReport, command: str) -> tuple[str, ...]:
    (job,) = (job for job in found.jobs if job.command == command)
    return job.missing


def versions(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    """Change the versions of some installed packages; None makes one missing."""
    real = checks.version_of
    table = {name.replace("_", "-"): version for name, version in changed.items()}
    monkeypatch.setattr(checks, "version_of", lambda name: table[name] if name in table else real(name))


def give_shared_memory(monkeypatch: pytest.MonkeyPatch, free_mb: int) -> None:
    """Make /dev/shm appear to have this much free space."""
    size = free_mb * 1_000_000
    usage = SimpleNamespace(total=size, used=0, free=size)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
