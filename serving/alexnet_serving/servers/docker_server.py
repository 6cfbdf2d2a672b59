"""A Triton server in NVIDIA's image, by `docker run`: for GPUs, and for every network that is not loopback.

    with DockerServer(repository) as server:
        print(server.grpc_url, server.models)

The image is pinned and never pulled silently; the container is confined (`container.py`).
"""

from __future__ import annotations

import ipaddress
import secrets
from contextlib import nullcontext
from pathlib import Path

from alexnet_model import docker
from alexnet_model.errors import AlexnetError, UsageError
from alexnet_model.gpus import GpuSurvey, gpus_here
from alexnet_model.manifest import Manifest, manifest_from_folder
from alexnet_model.triton_image import BUILD_CPU_IMAGE, TRITON_IMAGE

from ..engine_compatibility import check_engines, rebuild_command
from ..engine_targets import targets_of
from ..repositories.backends_in import (
    OF_OUR_IMAGE,
    backends_of_repository,
    can_use_gpu,
    image_for,
    no_gpu_for_engines,
)
from ..repositories.model_entries import TENSORRT
from .container import MODELS, TLS, run_command, user_for
from .process_server import LOOPBACK, Launch, ProcessServer, launch_folder
from .tls import ServerTls, copy_tls, tls_in
from .tritonserver import SHM_OPTION, server_options, shm_prefix_option

# Since 26.04 Triton has a lock of its own on what clients share with it.
CLIENT_SHM = "--allow-client-shm=true"
VERSION_COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"
# What `docker run` exits with when it, and not what it ran, has failed.
DOCKERS_OWN = (125, 126, 127)


class DockerServer(ProcessServer):
    """A `Server`: its container starts on entering, is ready inside, and removed on leaving.

    The image is chosen by the repository's backends unless named. Ports left out are chosen, and published on
    `address`: loopback, unless another of this machine's is named. With `tls` that holds of gRPC alone, and
    the others stay on loopback. `shared_memory` opens Triton's interface for it to every process that reaches
    a port. Raises on construction, before anything is asked or started:
        RepositoryError: the repository is missing, or has no model.
        PortTaken: something listens on a given port already.
        ServerError: a file of `tls` cannot be used.
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
        tls: ServerTls | None = None,
        shared_memory: bool = False,
        ready_timeout_s: float = 300.0,
    ) -> None:
        address = _checked_address(address)
        if shared_memory and not ipaddress.IPv4Address(address).is_loopback:
            raise UsageError(
                "shared memory",
                got=f"it with address {address}",
                expected="an address of loopback: whoever reaches the server may name any memory to it",
                next_step=f"Leave the address out, or use {LOOPBACK}.",
            )
        super().__init__(
            repository,
            grpc_port=grpc_port,
            http_port=http_port,
            metrics_port=metrics_port,
            address=address,
            tls=tls,
            ready_timeout_s=ready_timeout_s,
        )
        self._shared_memory = shared_memory
        self._backends = set(backends_of_repository(self._repository).values())
        self._image = image or image_for(self._backends)

    def _prepared(self) -> Launch:
        """Ask everything that can be asked before a container is started.

        Raises:
            DockerError: no engine, no image, or a path that cannot be mounted.
            EngineRefused: an engine does not load on a GPU here, or there is none.
            ManifestError: engines whose record is missing or broken.
            RepositoryError: the container's user could not read the repository.
            ServerError: no room for a copy of the certificates.
        """
        docker.digest_of_image(self._image)  # raises where there is no engine, or no such image
        survey = gpus_here() if can_use_gpu(self._backends) else GpuSurvey()
        inside = tls_in(TLS, self._tls) if self._tls is not None else None
        options = [
            *server_options(MODELS, tls=inside, shared_memory=self._shared_memory),
            *self._options_of_backends(survey),
        ]
        if not survey.gpus:
            options.append("--allow-gpu-metrics=false")
        user = user_for(self._repository)
        self._container = f"alexnet-{secrets.token_hex(8)}"
        self._shm_prefix = f"alexnet_{secrets.token_hex(8)}_" if self._shared_memory else ""
        if self._shared_memory:
            # What its backends leave when they are killed lies on this machine then.
            options += [CLIENT_SHM, shm_prefix_option(self._shm_prefix)]
        with launch_folder(self._name) if self._tls is not None else nullcontext() as folder:
            if self._tls is not None and folder is not None:
                copy_tls(self._tls, folder / "tls", user=user[0], group=user[1])
            command = run_command(
                self._container,
                self._image,
                self._repository,
                user=user,
                addresses=self._addresses,
                ports=self._ports,
                gpus=bool(survey.gpus),
                tls=folder / "tls" if folder is not None else None,
                shared_memory=self._shared_memory,
                options=options,
            )
        return Launch(
            command=command,
            shm_prefix=self._shm_prefix,
            folder=str(folder or ""),
            container=self._container,
        )

    def _options_of_backends(self, survey: GpuSurvey) -> list[str]:
        options = []
        if TENSORRT in self._backends:
            manifest = self._checked_engines(survey)
            # One model after another: while one records CUDA graphs, another's loading can fail.
            options.append("--model-load-thread-count=1")
            if any(e.passport.version_compatible for a in manifest.accepted for e in a.engines):
                options.append(VERSION_COMPATIBLE)
        if self._backends & OF_OUR_IMAGE:
            options.append(SHM_OPTION)
        return options

    def _checked_engines(self, survey: GpuSurvey) -> Manifest:
        if not survey.gpus:
            raise no_gpu_for_engines(self._repository, survey)
        manifest = manifest_from_folder(self._repository)
        version = docker.tensorrt_of_image(self._image)
        # On every model of GPU: Triton puts an instance on each.
        check_engines(manifest, self._repository, targets_of(survey, version))
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
        if self._backends & OF_OUR_IMAGE:
            return f"Build the image that has it, in the source tree: {BUILD_CPU_IMAGE}"
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
