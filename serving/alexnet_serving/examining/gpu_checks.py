"""What engines need: the GPU and its driver, Docker that can give it to a container, and Triton's image."""

from __future__ import annotations

import contextlib
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
    TENSORRT_VERSION,
    TRITON_IMAGE,
    driver_is_too_old,
)

from .checks import BUILD_IN_DOCKER, BUILD_TENSORRT, DOCKER_JOBS, SERVE_IN_DOCKER, Check, mend_from
from .engines_found import DockerNeeds

US = "alexnet doctor"  # the next step of errors that nobody knows better
PCI_DEVICES = Path("/sys/bus/pci/devices")
NVIDIA = "0x10de"
DISPLAY = "0x03"  # the PCI class of GPUs, with or without a display
INSTALL_DRIVER = (
    f"sudo apt-get install nvidia-driver-{MINIMUM_DRIVER} && sudo reboot  # Ubuntu; for others: "
    "https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/"
)
GPU_DEVICE = "nvidia.com/gpu"  # as the container device interface names them
TOOLKIT_DEADLINE_S = 10.0


def check_gpus(survey: GpuSurvey, serving: DockerNeeds) -> Check:
    """Each kind of GPU that the driver lists, and what is wrong with those that it does not."""
    kinds = Counter(f"{gpu.name} ({gpu.compute_capability})" for gpu in survey.gpus)
    found = ", ".join(f"{count} × {kind}" if count > 1 else kind for kind, count in kinds.items())
    if survey.gpus and survey.problem:
        mend = "nvidia-smi -L  # names the broken one"
    elif survey.gpus:
        mend = ""
    elif _has_nvidia_device():
        mend = INSTALL_DRIVER
    else:
        mend = "A machine with an NVIDIA GPU; without one: alexnet serve --with embedded"
    return Check(
        name="NVIDIA GPU",
        status="missing" if not survey.gpus else "warning" if survey.problem else "ok",
        found="; ".join(filter(None, (found, survey.problem))),
        needed_by=_gpu_jobs(serving),
        mend=mend,
    )


def check_driver(survey: GpuSurvey, serving: DockerNeeds) -> Check:
    """The driver must be as new as the CUDA of Triton's image asks."""
    if not survey.gpus:
        return _not_asked("NVIDIA driver", _gpu_jobs(serving), "no GPU was found")
    driver = survey.gpus[0].driver
    new_enough = not driver_is_too_old(survey.gpus[0])
    found = driver + (f", CUDA {survey.cuda}" if survey.cuda else "")
    return Check(
        name="NVIDIA driver",
        status="ok" if new_enough else "missing",
        found=found if new_enough else f"{found}, needs {MINIMUM_DRIVER} or newer",
        needed_by=_gpu_jobs(serving),
        mend="" if new_enough else INSTALL_DRIVER,
    )


def docker_checks(survey: GpuSurvey, serving: DockerNeeds) -> Iterator[Check]:
    """From the program to the images; what depends on an engine that does not answer is not asked."""
    client = check_docker_client()
    yield client
    engine = check_docker_engine(client)
    yield engine
    answers = engine.status == "ok"
    why_not = "" if answers else "Docker does not answer"
    no_gpu = "" if survey.gpus else "no GPU was found"
    yield check_toolkit(serving, why_not=why_not or no_gpu)
    serves_triton = serving.image == TRITON_IMAGE
    yield _check_image(
        "Triton image",
        TRITON_IMAGE,
        f"docker pull {TRITON_IMAGE}",
        DOCKER_JOBS if serves_triton else (BUILD_IN_DOCKER,),
        why_not=why_not or ("" if serves_triton else no_gpu),
    )
    if serving.image == CPU_IMAGE:
        yield _check_image(
            "Triton image for CPUs",
            CPU_IMAGE,
            f"{BUILD_CPU_IMAGE}  # in the source tree",
            (SERVE_IN_DOCKER,),
            why_not=why_not,
        )


def check_docker_client() -> Check:
    """The command line; what it finds is an engine's matter."""
    path = shutil.which(docker.PROGRAM)
    return Check(
        name="Docker client",
        status="ok" if path else "missing",
        found=path or "no such program",
        needed_by=DOCKER_JOBS,
        mend="" if path else mend_from(docker.no_docker().next_step),
    )


def check_docker_engine(client: Check) -> Check:
    """The engine, as this user reaches it."""
    if client.status != "ok":
        return _not_asked("Docker Engine", DOCKER_JOBS, "no Docker client")
    try:
        version = docker.check_docker()
    except DockerError as error:
        mend = mend_from(error.next_step)
        return Check(
            name="Docker Engine",
            status="missing",
            found=error.got,
            needed_by=DOCKER_JOBS,
            mend=mend if mend and mend != US else "docker info",
        )
    return Check(name="Docker Engine", status="ok", found=version or "no version", needed_by=DOCKER_JOBS)


def check_toolkit(serving: DockerNeeds, *, why_not: str) -> Check:
    """Whether the engine can give a container the GPU: by a runtime, or by devices that it knows."""
    needed_by = DOCKER_JOBS if serving.needs_gpu else (BUILD_IN_DOCKER,)
    if why_not:
        return _not_asked("NVIDIA toolkit", needed_by, why_not)
    given, problem = _how_gpus_are_given()
    if given:
        return Check(name="NVIDIA toolkit", status="ok", found=given, needed_by=needed_by)
    version = _version_of_toolkit()
    return Check(
        name="NVIDIA toolkit",
        # `docker run --gpus` needs its hook alone, which an engine finds when it starts.
        status="warning" if version else "missing",
        found=f"{version}, but Docker was not told of it" if version else problem,
        needed_by=needed_by,
        mend=docker.INSTALL_TOOLKIT,
    )


def tensorrt_of_triton(*, docker_answers: bool) -> str:
    """Of Triton's image here, which says it itself, or of the pinned one."""
    if docker_answers:
        with contextlib.suppress(DockerError):
            return docker.tensorrt_of_image(TRITON_IMAGE)
    return TENSORRT_VERSION


def _check_image(name: str, image: str, mend: str, needed_by: tuple[str, ...], *, why_not: str) -> Check:
    if why_not:
        return _not_asked(name, needed_by, why_not)
    try:
        docker.digest_of_image(image)
    except DockerError as error:
        return Check(name=name, status="missing", found=error.got, needed_by=needed_by, mend=mend)
    return Check(name=name, status="ok", found=image, needed_by=needed_by)


def _how_gpus_are_given() -> tuple[str, str]:
    """How Docker gives a container the GPU, or else why not."""
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


def _not_asked(name: str, needed_by: tuple[str, ...], why: str) -> Check:
    """It waits for another miss, which stops the same jobs."""
    return Check(name=name, status="warning", found=f"not asked: {why}", needed_by=needed_by)


def _gpu_jobs(serving: DockerNeeds) -> tuple[str, ...]:
    jobs = (BUILD_TENSORRT, BUILD_IN_DOCKER)
    return (*jobs, SERVE_IN_DOCKER) if serving.needs_gpu else jobs


def _has_nvidia_device() -> bool:
    """Whether the machine has the hardware, whatever its driver says."""
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
