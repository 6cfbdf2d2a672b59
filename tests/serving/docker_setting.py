"""What the tests of a server in Docker share: repositories of engines, and how a test meets a failure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_model.errors import AlexnetError
from alexnet_serving import RepositoryOptions, write_repository
from alexnet_serving.servers.docker_server import DockerServer

from ..stand_ins.docker import FakeDocker
from ..stand_ins.nvidia_smi import GpuRow
from .conftest import Artifacts
from .recorded_engines import with_engines

H200: GpuRow = (0, "NVIDIA H200", "9.0", "580.95.05", 143771)  # what the recorded engines are for
Fake = Callable[..., FakeDocker]


def repository_of_engines(artifacts: Artifacts, folder: Path, **passport: Any) -> Path:
    export = with_engines(artifacts, folder / "export", **passport)
    repository = folder / "engines"
    write_repository(export.manifest, export.folder, repository, RepositoryOptions(runtime="tensorrt"))
    return repository


def failure_of(server: DockerServer) -> AlexnetError:
    """What entering it raises."""
    with pytest.raises(AlexnetError) as caught, server:
        pytest.fail("entered")
    return caught.value
