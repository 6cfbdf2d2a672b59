"""A Triton server in NVIDIA's image, by `docker run`: for GPUs, and for every network that is not loopback.

    with DockerServer(repository) as server:
        print(server.grpc_url, server.models)

The image is pinned and never pulled silently; the container is confined (`container.py`).
"""

from __future__ import annotations

import ipaddress
import secrets
from pathlib import Path

from alexnet_model import docker
from alexnet_model.errors import AlexnetError, UsageError
from alexnet_model.gpus import GpuSurvey, gpus_here
from alexnet_model.manifest import Manifest, manifest_from_folder
from alexnet_model.triton_image import CPU_IMAGE, TRITON_IMAGE

from ..loading import check_engines, rebuild_command
from ..places import places_of
from ..repositories.backends_in import (
    OPENVINO,
    backends_of_repository,
    can_use_gpu,
    image_for,
    no_gpu_for_engines,
)
from ..repositories.packages import TENSORRT
from .container import MODELS, run_command
from .process_server import LOOPBACK, Launch, ProcessServer
from .tritonserver import SHM_OPTION, server_options

VERSION_COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"
# What `docker run` exits with when it, and not what it ran, has failed.
DOCKERS_OWN = (125, 126, 127)


class DockerServer(ProcessServer):
    """A `Server`: its container starts on entering, is ready inside, and removed on leaving.

    The image is chosen by the repository's backends unless named. Ports left out are chosen, and published on
    `address`: loopback, unless another of this machine's is named. Raises on construction, before anything
    is asked or started:
        RepositoryError: the repository is missing, or has no model.
        PortTaken: something listens on a given port already.
        UsageError: a port, the address or the deadline cannot be.
    """

    _name = "server in Docker"

    def __init__(
        self,
        repository: Path,
        *,
        image: str | None = None,
        grpc_port: int | None = None,
        http_port: int | None = None,
        metrics_port: int | None = None,
        address: str = LOOPBACK,
        ready_timeout_s: float = 300.0,
    ) -> None:
        super().__init__(
            repository,
            grpc_port=grpc_port,
            http_port=http_port,
            metrics_port=metrics_port,
            address=_checked_address(address),
            ready_timeout_s=ready_timeout_s,
        )
        self._backends = set(backends_of_repository(self._repository).values())
        self._image = image or image_for(self._backends)

    def _prepared(self) -> Launch:
        """Ask everything that can be asked before a container is started.

        Raises:
            DockerError: no engine, no image, or a path that cannot be mounted.
            EngineRefused: an engine does not load on a GPU here, or there is none.
            ManifestError: engines whose record is missing or broken.
            RepositoryError: the container's user could not read the repository.
        """
        docker.digest_of_image(self._image)  # raises where there is no engine, or no such image
        survey = gpus_here() if can_use_gpu(self._backends) else GpuSurvey()
        options = [*server_options(MODELS), *self._options_of_backends(survey)]
        if not survey.gpus:
            options.append("--allow-gpu-metrics=false")
        self._container = f"alexnet-{secrets.token_hex(8)}"
        command = run_command(
            self._container,
            self._image,
            self._repository,
            address=self._address,
            ports=self._ports,
            gpus=bool(survey.gpus),
            options=options,
        )
        return Launch(command=command, container=self._container)

    def _options_of_backends(self, survey: GpuSurvey) -> list[str]:
        options = []
        if TENSORRT in self._backends:
            manifest = self._checked_engines(survey)
            # One model after another: while one records CUDA graphs, another's loading can fail.
            options.append("--model-load-thread-count=1")
            if any(e.passport.version_compatible for a in manifest.accepted for e in a.engines):
                options.append(VERSION_COMPATIBLE)
        if OPENVINO in self._backends:
            options.append(SHM_OPTION)
        return options

    def _checked_engines(self, survey: GpuSurvey) -> Manifest:
        if not survey.gpus:
            raise no_gpu_for_engines(self._repository, survey)
        manifest = manifest_from_folder(self._repository)
        version = docker.tensorrt_of_image(self._image)
        # On every model of GPU: Triton puts an instance on each.
        check_engines(manifest, self._repository, places_of(survey, version))
        return manifest

    def _own_error(self, returncode: int, said: str) -> AlexnetError | None:
        return docker.error_from_output("docker run", said, returncode) if returncode in DOCKERS_OWN else None

    def _words_for(self, returncode: int) -> str:
        if returncode < 0:
            return f"its Docker client killed by signal {-returncode}"
        if returncode > 128:
            return f"killed by signal {returncode - 128} inside its container"
        return super()._words_for(returncode)

    def _mending(self, reason: str) -> str:
        if "TensorRT engine" in reason:
            return f"Build its engine for this machine: {rebuild_command(self._repository)}"
        return super()._mending(reason)

    def _backend_step(self) -> str:
        if OPENVINO in self._backends:
            return f"Build the image that has it, in the source tree: docker build --tag {CPU_IMAGE} serving"
        return f"Pull the image that has it: docker pull {TRITON_IMAGE}"


def _checked_address(address: str) -> str:
    try:
        return str(ipaddress.IPv4Address(LOOPBACK if address == "localhost" else address))
    except ValueError as error:
        raise UsageError(
            "address",
            got=address,
            expected="an IPv4 address of this machine, such as 127.0.0.1 or, for every network, 0.0.0.0",
        ) from error
