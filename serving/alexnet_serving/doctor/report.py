"""The doctor's report: run all checks, and judge each command by them.

The checks are independent and have deadlines, so a driver or a Docker engine that fails or hangs does not
hide other problems. Nothing heavy is imported, so that a base install can run the doctor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from alexnet_model.environment import machine_name
from alexnet_model.gpus import gpus_here
from alexnet_model.records import Record

from ..engine_compatibility import targets_of
from .checks import (
    CLASSIFY,
    EXPORT,
    SERVE_EMBEDDED,
    SERVE_IN_DOCKER,
    Check,
    check_base,
    check_compiler,
    check_disk_space,
    check_embedded_triton,
    check_extra,
    check_glibc,
    check_libpython,
    check_other_runtimes,
    check_ports,
    check_python,
    check_pytorch,
    check_shared_memory,
    check_tensorrt,
    extras,
    jobs,
    missing_checks,
)
from .engines import EngineFound, docker_needs_of, engines_found, served_checks
from .gpu_runtimes import GpuRuntime, gpu_runtimes
from .gpus import check_driver, check_gpus, docker_checks, tensorrt_of_triton


class Job(Record):
    """One command: whether it runs here, and the names of the checks that are missing if not."""

    command: str
    runs: bool
    missing: tuple[str, ...]


class MainJob(Record):
    """Export, serve and classify: whether they run here, and the first fix if not.

    Of the two servers it has the one with fewer missing checks.
    """

    commands: tuple[str, ...]
    runs: bool
    first_fix: str


class DoctorReport(Record):
    """Everything that the doctor found."""

    schema_version: Literal[3] = 3
    machine: str
    checks: tuple[Check, ...]
    gpu_runtimes: tuple[GpuRuntime, ...] = ()
    engines: tuple[EngineFound, ...]
    jobs: tuple[Job, ...]
    main_job: MainJob


def diagnose(repository: Path, out: Path) -> DoctorReport:
    """Check this machine and the engines in two folders, and judge each command.

    Args:
        repository: The model repository.
        out: The folder of an export.

    Raises:
        AlexnetError: this distribution's files are here and its metadata is not.
        RuntimeNotUsable: a runtime that another distribution registers does not load.
    """
    survey = gpus_here()
    serving = docker_needs_of(repository, survey)
    of_docker = tuple(docker_checks(survey, serving))
    engine_runs = any(check.name == "Docker Engine" and check.status == "ok" for check in of_docker)
    tensorrt_version = tensorrt_of_triton(engine_runs=engine_runs)
    targets = targets_of(survey, tensorrt_version)
    engines, of_records = engines_found(repository, out, targets)
    checks = (
        check_python(),
        check_base(),
        *(check_extra(extra, has_gpu=bool(survey.gpus)) for extra in extras()),
        check_pytorch(has_gpu=bool(survey.gpus)),
        *check_other_runtimes(),
        check_glibc(),
        check_libpython(),
        check_embedded_triton(),
        check_shared_memory(repository),
        check_ports(),
        check_disk_space("--repository", repository),
        check_disk_space("--out", out),
        *of_records,
        *served_checks(repository, serving, targets),
        check_gpus(survey, serving),
        check_driver(survey, serving),
        check_tensorrt(tensorrt_version),
        check_compiler(),
        *of_docker,
    )
    return DoctorReport(
        machine=machine_name(),
        checks=checks,
        gpu_runtimes=gpu_runtimes(checks, survey),
        engines=engines,
        jobs=tuple(job_from_checks(command, checks) for command in jobs()),
        main_job=main_job_from_checks(checks),
    )


def job_from_checks(command: str, checks: Sequence[Check]) -> Job:
    """Judge a command by the checks that it needs."""
    missing = tuple(check.name for check in missing_checks(checks, command))
    return Job(command=command, runs=not missing, missing=missing)


def main_job_from_checks(checks: Sequence[Check]) -> MainJob:
    """Judge the path from export to classify, with the server that has fewer missing checks."""
    serve = min((SERVE_EMBEDDED, SERVE_IN_DOCKER), key=lambda command: len(missing_checks(checks, command)))
    commands = (EXPORT, serve, CLASSIFY)
    missing = missing_checks(checks, *commands)
    return MainJob(commands=commands, runs=not missing, first_fix=missing[0].fix if missing else "")
