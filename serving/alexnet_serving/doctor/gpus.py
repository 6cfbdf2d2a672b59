"""The doctor's checks for engines and containers: the GPU, its driver, Docker and Triton's image."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet_model import docker
from alexnet_model.errors import DockerError
from alexnet_model.gpus import GpuSurvey
from alexnet_model.triton_image import (
    BUILD_CPU_IMAGE,
    CPU_IMAGE,
    MINIMUM_DRIVER,
    TRITON_IMAGE,
    driver_is_too_old,
)

from .checks import BUILD_IN_DOCKER, BUILD_TENSORRT, DOCKER_JOBS, SERVE_IN_DOCKER, Check, fix_from, judged
from .engines import DockerNeeds

DOCTOR = "alexnet doctor"  # the next step of errors without a more specific one
PCI_DEVICES = Path("/sys/bus/pci/devices")
NVIDIA = "0x10de"
DISPLAY = "0x03"  # the PCI class of GPUs, with or without a display
INSTALL_DRIVER = (
    f"sudo apt-get install nvidia-driver-{MINIMUM_DRIVER} && sudo reboot  # Ubuntu; for others: "
    "https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/"
)
GPU_DEVICE = "nvidia.com/gpu"  # the start of its names in the container device interface
TOOLKIT_DEADLINE_S = 10.0


def check_gpus(survey: GpuSurvey, serving: DockerNeeds) -> Check:
    """Check that the driver lists a GPU, and whether another one cannot be used."""
    kinds = Counter(f"{gpu.name} ({gpu.compute_capability})" for gpu in survey.gpus)
    found = ", ".join(f"{count} × {kind}" if count > 1 else kind for kind, count in kinds.items())
    if survey.gpus and survey.problem:
        fix = "nvidia-smi -L  # names the broken GPU"
    elif survey.gpus:
        fix = ""
    elif _has_nvidia_device():
        fix = INSTALL_DRIVER
    else:
        fix = "Use a machine with an NVIDIA GPU; without one: alexnet serve --with embedded"
    return Check(
        name="NVIDIA GPU",
        status="missing" if not survey.gpus else "warning" if survey.problem else "ok",
        found="; ".join(filter(None, (found, survey.problem))),
        needed_by=_gpu_jobs(serving),
        fix=fix,
    )


def check_driver(survey: GpuSurvey, serving: DockerNeeds) -> Check:
    """Check that the driver is new enough for the CUDA version of Triton's image."""
    if not survey.gpus:
        return _not_checked("NVIDIA driver", _gpu_jobs(serving), "no GPU was found")
    driver = survey.gpus[0].driver
    found = driver + (f", CUDA {survey.cuda}" if survey.cuda else "")
    problem = f"{found}, needs {MINIMUM_DRIVER} or newer" if driver_is_too_old(survey.gpus[0]) else ""
    return judged("NVIDIA driver", _gpu_jobs(serving), found=found, problem=problem, fix=INSTALL_DRIVER)


def docker_checks(survey: GpuSurvey, serving: DockerNeeds) -> Iterator[Check]:
    """Yield the checks of Docker, from its client to the images; those behind a failed one are skipped."""
    client = check_docker_client()
    yield client
    engine = check_docker_engine(client)
    yield engine
    engine_runs = engine.status == "ok"
    skipped = "" if engine_runs else "Docker does not respond"
    no_gpu = "" if survey.gpus else "no GPU was found"
    yield check_toolkit(serving, skipped=skipped or no_gpu)
    serves_triton = serving.image == TRITON_IMAGE
    yield _check_image(
        "Triton image",
        TRITON_IMAGE,
        f"docker pull {TRITON_IMAGE}",
        DOCKER_JOBS if serves_triton else (BUILD_IN_DOCKER,),
        skipped=skipped or ("" if serves_triton else no_gpu),
    )
    if serving.image == CPU_IMAGE:
        yield _check_image(
            "Triton image for CPUs",
            CPU_IMAGE,
            f"{BUILD_CPU_IMAGE}  # in the source tree",
            (SERVE_IN_DOCKER,),
            skipped=skipped,
        )


def check_docker_client() -> Check:
    """Check that the `docker` program is installed."""
    path = shutil.which(docker.PROGRAM) or ""
    fix = fix_from(docker.no_docker().next_step)
    problem = "" if path else "no such program"
    return judged("Docker client", DOCKER_JOBS, found=path, problem=problem, fix=fix)


def check_docker_engine(client: Check) -> Check:
    """Check that this user reaches a Docker engine."""
    if client.status != "ok":
        return _not_checked("Docker Engine", DOCKER_JOBS, "no Docker client")
    try:
        version = docker.check_docker()
    except DockerError as error:
        fix = fix_from(error.next_step)
        fix = fix if fix and fix != DOCTOR else "docker info"
        return judged("Docker Engine", DOCKER_JOBS, problem=error.got, fix=fix)
    return judged("Docker Engine", DOCKER_JOBS, found=version or "no version")


def check_toolkit(serving: DockerNeeds, *, skipped: str) -> Check:
    """Check that the engine can give a container the GPU, by a runtime or by a device that it knows.

    Args:
        serving: What `serve --with docker` needs.
        skipped: Why this cannot be checked; empty to check it.
    """
    needed_by = DOCKER_JOBS if serving.needs_gpu else (BUILD_IN_DOCKER,)
    if skipped:
        return _not_checked("NVIDIA toolkit", needed_by, skipped)
    method, problem = _gpu_method()
    version = "" if method else _version_of_toolkit()
    return judged(
        "NVIDIA toolkit",
        needed_by,
        found=method,
        problem=f"{version}, but Docker is not configured for it" if version else problem,
        fix=docker.INSTALL_TOOLKIT,
        # `docker run --gpus` needs the toolkit's hook only, which the engine finds when it starts.
        status="warning" if version else "missing",
    )


def tensorrt_of_triton(*, engine_runs: bool) -> str | None:
    """Return the TensorRT version of Triton's image; None if that image is not here to tell it."""
    return docker.tensorrt_of_image_here(TRITON_IMAGE) if engine_runs else None


def _check_image(name: str, image: str, fix: str, needed_by: tuple[str, ...], *, skipped: str) -> Check:
    if skipped:
        return _not_checked(name, needed_by, skipped)
    try:
        docker.digest_of_image(image)
    except DockerError as error:
        return judged(name, needed_by, problem=error.got, fix=fix)
    return judged(name, needed_by, found=image)


def _gpu_method() -> tuple[str, str]:
    """Return how Docker gives a container the GPU, or an empty text and why it cannot."""
    try:
        info: Any = json.loads(docker.ask("info", "--format", "{{json .}}"))
    except DockerError as error:
        return "", error.got
    except ValueError:
        info = None
    if not isinstance(info, dict):
        return "", "docker info printed no JSON object"
    if "nvidia" in (info.get("Runtimes") or {}):
        return "a Docker runtime", ""
    if any(str(device.get("ID")).startswith(GPU_DEVICE) for device in info.get("DiscoveredDevices") or []):
        return "a device that Docker knows", ""
    return "", "Docker knows neither its runtime nor its devices"


def _not_checked(name: str, needed_by: tuple[str, ...], why: str) -> Check:
    """Return a check that was skipped because of a failed one, which stops the same commands."""
    return judged(name, needed_by, problem=f"not checked: {why}", status="warning")


def _gpu_jobs(serving: DockerNeeds) -> tuple[str, ...]:
    jobs = (BUILD_TENSORRT, BUILD_IN_DOCKER)
    return (*jobs, SERVE_IN_DOCKER) if serving.needs_gpu else jobs


def _has_nvidia_device() -> bool:
    """Return whether the machine has an NVIDIA GPU, even if its driver does not work."""
    for device in PCI_DEVICES.glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
        except OSError:
            continue
        if vendor.strip() == NVIDIA and kind.startswith(DISPLAY):
            return True
    return False


def _version_of_toolkit() -> str:
    try:
        done = subprocess.run(
            ["nvidia-ctk", "--version"],  # noqa: S607 (found on PATH, as its package installs it)
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=TOOLKIT_DEADLINE_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().partition("\n")[0]
