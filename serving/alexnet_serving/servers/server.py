"""The interface of a running Triton server, and the choice between its two implementations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

from alexnet_model import docker
from alexnet_model.errors import DockerError
from alexnet_model.gpus import gpus_here

from ..repositories.backends import (
    backends_of_repository,
    can_use_gpu,
    loads_in_python,
    needs_gpu,
    no_gpu_error,
)


class Server(Protocol):
    """A Triton server: ready for requests inside its `with` block, stopped and cleaned up after it."""

    @property
    def grpc_url(self) -> str:
        """Return the gRPC URL, such as `grpc://127.0.0.1:8001`, or `grpcs://...` with TLS."""

    @property
    def http_url(self) -> str:
        """Return the HTTP URL, such as `http://127.0.0.1:8000`."""

    @property
    def metrics_url(self) -> str:
        """Return the URL of the metrics, such as `http://127.0.0.1:8002/metrics`."""

    @property
    def models(self) -> tuple[str, ...]:
        """Return the sorted names of the served models."""

    def check(self) -> None:
        """Return at once if the server and the processes that run its models are alive.

        Raises:
            ServerDied: one of them has ended; the message has the last lines of the log.
        """

    def wait(self) -> None:
        """Block until the server was stopped from another thread or interrupted, and has ended.

        Raises:
            ServerDied: the server, or a process that runs one of its models, ended without a stop.
        """

    def interrupt(self) -> None:
        """Make `wait` stop the server; the second call kills its processes.

        A signal handler may call it at any time: it takes no lock, raises nothing and does not block.
        """

    def stop(self) -> None:
        """Stop the server and clean up after it; a second call returns when the first has finished.

        In a forked child of the process that made it, this does nothing.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ServerChoice:
    """The kind of server that fits a repository on this machine.

    Attributes:
        kind: `docker` or `embedded`.
        reason: Why, as the end of a sentence for the user.
    """

    kind: Literal["docker", "embedded"]
    reason: str


def choice_of_server(repository: Path) -> ServerChoice:
    """Choose the server for a repository: Docker if a GPU can compute it, else the embedded one.

    Models that need a GPU run in Docker only. All others run embedded if Docker or the GPU is missing.
    Engines that were compiled for this machine's PyTorch run embedded only.

    Raises:
        EngineRefused: a model needs a GPU and there is none.
        DockerError: a model needs a GPU and no Docker engine answers.
    """
    backends = set(backends_of_repository(repository).values())
    if loads_in_python(backends):
        return ServerChoice(kind="embedded", reason="these models were compiled for this machine's PyTorch")
    if not can_use_gpu(backends):
        return ServerChoice(kind="embedded", reason="these models are computed on a CPU")
    survey = gpus_here()
    if not survey.gpus:
        if needs_gpu(backends):
            raise no_gpu_error(repository, survey)
        return ServerChoice(kind="embedded", reason=f"no GPU: {survey.problem}")
    try:
        version = docker.check_docker()
    except DockerError as error:
        if needs_gpu(backends):
            raise
        return ServerChoice(kind="embedded", reason=f"no Docker engine: {error.got}")
    return ServerChoice(kind="docker", reason=f"Docker {version} and {survey.gpus[0].name} are available")
