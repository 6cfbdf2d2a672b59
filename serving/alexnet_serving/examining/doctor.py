"""What each command needs, whether it is here, and what mends it if not.

Every check asks for itself and every question has a deadline, so that a driver or a Docker that fails or
hangs hides nothing else. Nothing heavy is imported: a base install can be examined.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from alexnet_model.environment import machine_name
from alexnet_model.gpus import gpus_here
from alexnet_model.records import Record

from ..engine_targets import targets_of
from .checks import CLASSIFY, EXPORT, JOBS, SERVE_EMBEDDED, SERVE_IN_DOCKER, Check
from .engines_found import EngineFound, docker_needs_of, engines_found, served_checks
from .gpu_checks import check_driver, check_gpus, docker_checks, tensorrt_of_triton
from .machine_checks import (
    check_embedded_triton,
    check_glibc,
    check_libpython,
    check_ports,
    check_room,
    check_shared_memory,
)
from .package_checks import EXTRAS, check_base, check_extra, check_python, check_tensorrt


class Job(Record):
    """One command; it runs if nothing that it needs is missing."""

    command: str
    runs: bool
    misses: tuple[str, ...]


class MainJob(Record):
    """Export, serve by the way that lacks least, classify; `first_mend` is empty where it runs."""

    commands: tuple[str, ...]
    runs: bool
    first_mend: str


class Examination(Record):
    """Everything the doctor found."""

    schema_version: Literal[1] = 1
    machine: str
    checks: tuple[Check, ...]
    engines: tuple[EngineFound, ...]
    jobs: tuple[Job, ...]
    main_job: MainJob


def examine(repository: Path, out: Path) -> Examination:
    """Look at this machine, and at the engines of a repository and of an export's folder.

    Raises:
        AlexnetError: this package is not installed, only its files are there.
    """
    survey = gpus_here()
    serving = docker_needs_of(repository, survey)
    of_docker = tuple(docker_checks(survey, serving))
    docker_answers = any(check.name == "Docker Engine" and check.status == "ok" for check in of_docker)
    tensorrt_version = tensorrt_of_triton(docker_answers=docker_answers)
    targets = targets_of(survey, tensorrt_version)
    engines, of_records = engines_found(repository, out, targets)
    checks = (
        check_python(),
        check_base(),
        *(check_extra(extra) for extra in EXTRAS),
        check_glibc(),
        check_libpython(),
        check_embedded_triton(),
        check_shared_memory(),
        check_ports(),
        check_room("--repository", repository),
        check_room("--out", out),
        *of_records,
        *served_checks(repository, serving, targets),
        check_gpus(survey, serving),
        check_driver(survey, serving),
        check_tensorrt(tensorrt_version),
        *of_docker,
    )
    return Examination(
        machine=machine_name(),
        checks=checks,
        engines=engines,
        jobs=tuple(job_from_checks(command, checks) for command in JOBS),
        main_job=main_job_from_checks(checks),
    )


def job_from_checks(command: str, checks: Sequence[Check]) -> Job:
    """Whether a command runs, or what it misses."""
    misses = tuple(check.name for check in _missing(checks, command))
    return Job(command=command, runs=not misses, misses=misses)


def main_job_from_checks(checks: Sequence[Check]) -> MainJob:
    """Whether the whole path runs, and the first thing to mend if not."""
    serve = min((SERVE_EMBEDDED, SERVE_IN_DOCKER), key=lambda way: len(_missing(checks, way)))
    commands = (EXPORT, serve, CLASSIFY)
    in_the_way = _missing(checks, *commands)
    return MainJob(
        commands=commands, runs=not in_the_way, first_mend=in_the_way[0].mend if in_the_way else ""
    )


def _missing(checks: Sequence[Check], *commands: str) -> list[Check]:
    return [
        check
        for check in checks
        if check.status == "missing" and not set(commands).isdisjoint(check.needed_by)
    ]
