"""Which server a repository is served by where nobody said: Docker for what a GPU computes, else embedded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet_model import docker
from alexnet_model.errors import DockerError
from alexnet_model.gpus import gpus_here

from ..repositories.backends_in import backends_of_repository, can_use_gpu, no_gpu_for_engines
from ..repositories.model_entries import TENSORRT

ServerKind = Literal["docker", "embedded"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A kind of server, and why, in words for a line on the screen."""

    kind: ServerKind
    reason: str


def choice_of_server(repository: Path) -> Choice:
    """What serves this repository best on this machine.

    Engines have no other server than Docker; everything else is embedded where Docker or a GPU is missing.

    Raises:
        EngineRefused: its models are TensorRT engines, and there is no GPU.
        DockerError: its models are TensorRT engines, and there is no Docker engine.
    """
    backends = set(backends_of_repository(repository).values())
    if not can_use_gpu(backends):
        return Choice(kind="embedded", reason="these models are computed on a CPU")
    survey = gpus_here()
    if not survey.gpus:
        if TENSORRT in backends:
            raise no_gpu_for_engines(repository, survey)
        return Choice(kind="embedded", reason=f"no GPU: {survey.problem}")
    try:
        version = docker.check_docker()
    except DockerError as error:
        if TENSORRT in backends:
            raise
        return Choice(kind="embedded", reason=f"no Docker engine: {error.got}")
    return Choice(kind="docker", reason=f"Docker {version} and {survey.gpus[0].name} are here")
