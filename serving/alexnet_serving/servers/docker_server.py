"""A Triton server in NVIDIA's image, by `docker run`: for GPUs, and for networks other than loopback.

    with DockerServer(repository) as server:
        print(server.grpc_url, server.models)

The image is pinned and never pulled silently. The container is read-only, without capabilities and not root.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Unpack

from alexnet_model import docker
from alexnet_model.errors import AlexnetError, EngineRefused, RepositoryError, UsageError
from alexnet_model.gpus import GpuSurvey, gpus_here
from alexnet_model.model_names import export_of_model
from alexnet_model.triton_image import BUILD_CPU_IMAGE, TRITON_IMAGE

from ..engine_compatibility import check_engines, rebuild_command, targets_of
from ..repositories.backends import (
    backends_of_repository,
    can_use_gpu,
    image_for,
    loads_engines,
    loads_in_python,
    no_gpu_error,
    outside_our_images,
    outside_stock_image,
)
from ..repositories.records import packed_exports
from .backend_memory import MIB, BackendMemory, memory_of_repository
from .process_server import LOOPBACK, Launch, ProcessServer, ServerOptions, launch_folder
from .tls import copy_tls, tls_in
from .tracing import HOST_OF_CONTAINER
from .tritonserver import load_options, server_options, shm_prefix_option, shm_size_option

MODELS = "/models"
TLS = Path("/tls")
PORTS_INSIDE = {"http": 8000, "grpc": 8001, "metrics": 8002}
USER_OF_IMAGE = (1000, 1000)  # the user `triton-server` of NVIDIA's image, and its group
OWN_SHM = "--shm-size=1g"  # Docker's 64 MiB is less than Python-based backends and NVIDIA's libraries need
ULIMITS = (
    "--ulimit=memlock=-1",  # pinned memory, from which a GPU copies
    "--ulimit=stack=67108864",
)
SHM_OPTION = shm_size_option(16 * MIB)  # of each model's region at the start; it grows when it needs more
# Since 26.04 Triton needs an option of its own before clients may share memory with it.
CLIENT_SHM = "--allow-client-shm=true"
VERSION_COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"
# Exit codes of `docker run` if Docker itself failed, not the program in the container.
DOCKER_EXIT_CODES = (125, 126, 127)


class DockerServer(ProcessServer):
    """A `Server` whose container starts on entering its `with` block and is removed after it.

    Args:
        repository: The model repository.
        image: The image; None chooses one by the backends of the repository.
        options: Keyword arguments as in `ServerOptions`. With `shared_memory`, only loopback is accepted.

    Raises:
        RepositoryError: the repository is missing or has no model.
        EngineRefused: a model was compiled for this machine's PyTorch.
        PortTaken: another process listens on a requested port.
        ServerError: a file of `tls` cannot be used, or /dev/shm has too little space for `shared_memory`.
        UsageError: a port, the address or the timeout is invalid, or `trace` has a loopback URL.
    """

    _name = "server in Docker"
    _ready_timeout_s = 300.0

    def __init__(
        self, repository: Path, *, image: str | None = None, **options: Unpack[ServerOptions]
    ) -> None:
        super().__init__(repository, **options)
        if self._trace is not None:
            self._trace.check_from_container()
        self._backends = set(backends_of_repository(self._repository).values())
        self._check_backends()
        self._image = image or image_for(self._backends)
        self._memory = memory_of_repository(self._repository)
        if self._shared_memory and outside_stock_image(self._backends):
            self._memory.check()  # the container then uses this machine's /dev/shm

    def _check_backends(self) -> None:
        """Refuse engines that were compiled for the PyTorch of this machine, which no image has."""
        if loads_in_python(self._backends):
            words = ["alexnet", "serve", "--with", "embedded", "--repository", str(self._repository)]
            raise EngineRefused(
                str(self._repository),
                got="engines that were compiled for this machine's PyTorch",
                expected="models that an image of Triton can run",
                next_step=f"Serve them without Docker: {shlex.join(words)}",
            )

    def _checked_address(self, address: str, *, shared_memory: bool) -> str:
        try:
            checked = ipaddress.IPv4Address(LOOPBACK if address == "localhost" else address)
        except ValueError as error:
            raise UsageError(
                "address",
                got=address,
                expected="an IPv4 address of this machine, such as 127.0.0.1 or, for every network, 0.0.0.0",
            ) from error
        if shared_memory and not checked.is_loopback:
            raise UsageError(
                "shared memory",
                got=f"the address {checked}",
                expected="a loopback address: every client could read or write shared memory of this machine",
                next_step=f"Leave the address out, or use {LOOPBACK}.",
            )
        return str(checked)

    def _prepare_launch(self) -> Launch:
        """Check everything that can be checked before a container starts.

        The command stays attached, so its output is the server's log.

        Raises:
            DockerError: no engine, no image, or a path that cannot be mounted.
            EngineRefused: an engine does not load on a GPU here, or there is none.
            ManifestError: the record of an engine is missing or broken.
            RepositoryError: the container's user cannot read the repository.
            ServerError: no space for a copy of the certificates.
        """
        docker.digest_of_image(self._image)  # raises without an engine or the image
        survey = gpus_here() if can_use_gpu(self._backends) else GpuSurvey()
        container = f"alexnet-{secrets.token_hex(8)}"
        shm_prefix = f"alexnet_{secrets.token_hex(8)}_" if self._shared_memory else ""
        options = self._server_options(survey, shm_prefix)
        user, group = user_for(self._repository)
        mounts: list[str] = []
        with launch_folder(self._name) if self._tls is not None else nullcontext() as folder:
            if self._tls is not None and folder is not None:
                copy_tls(self._tls, folder / "tls", user=user, group=group)
                mounts.append(docker.mount(folder / "tls", str(TLS)))
            mounts.append(docker.mount(self._repository, MODELS))
        command = [
            *(docker.PROGRAM, "run", "--rm", f"--name={container}"),
            "--pull=never",  # gigabytes without a message until the deadline: `docker pull` shows progress
            "--init",  # until the start script has become tritonserver, a first process ignores SIGTERM
            *docker.CONFINED,
            f"--user={user}:{group}",
            "--ipc=host" if self._shared_memory else own_shm(self._memory),
            *ULIMITS,
            *(["--gpus=all"] if survey.gpus else []),
            *([f"--add-host={HOST_OF_CONTAINER}:host-gateway"] if self._sends_to_this_machine else []),
            *mounts,
            *(
                f"--publish={self._addresses[name]}:{port}:{PORTS_INSIDE[name]}"
                for name, port in sorted(self._ports.items())
            ),
            *(self._image, "tritonserver", *options),
        ]
        return Launch(command=command, shm_prefix=shm_prefix, folder=str(folder or ""), container=container)

    @property
    def _sends_to_this_machine(self) -> bool:
        return self._trace is not None and self._trace.host == HOST_OF_CONTAINER

    def _server_options(self, survey: GpuSurvey, shm_prefix: str) -> list[str]:
        tls = tls_in(TLS, self._tls) if self._tls is not None else None
        options = server_options(MODELS, tls=tls, shared_memory=self._shared_memory, trace=self._trace)
        options += load_options(self._models)
        if loads_engines(self._backends):
            self._check_engines(survey)
            # One model after another: while one records CUDA graphs, another one's loading can fail.
            options.append("--model-load-thread-count=1")
            entries = (entry for packed in packed_exports(self._repository) for entry in packed.entries)
            engines = (engine for entry in entries for engine in entry.engines.values())
            if any(engine.passport.version_compatible for engine in engines):
                options.append(VERSION_COMPATIBLE)
        if outside_stock_image(self._backends):
            options.append(SHM_OPTION)
        if not survey.gpus:
            options.append("--allow-gpu-metrics=false")
        if shm_prefix:
            # The backends' regions are then in this machine's /dev/shm, and stay there if they are killed.
            options += [CLIENT_SHM, shm_prefix_option(shm_prefix)]
        return options

    def _check_engines(self, survey: GpuSurvey) -> None:
        if not survey.gpus:
            raise no_gpu_error(self._repository, survey)
        version = docker.tensorrt_of_image(self._image)
        # On every GPU model: Triton starts an instance on each GPU.
        check_engines(self._repository, targets_of(survey, version, self._image))

    def _launcher_error(self, returncode: int, output: str) -> AlexnetError | None:
        if returncode not in DOCKER_EXIT_CODES:
            return None
        return docker.error_from_output("docker run", output, returncode)

    def _exit_reason(self, returncode: int) -> str:
        if returncode < 0:
            return f"its Docker client killed by signal {-returncode}"
        if returncode > 128:
            return f"killed by signal {returncode - 128} inside its container"
        return super()._exit_reason(returncode)

    def _load_failure_fix(self, model: str, reason: str) -> str:
        if "TensorRT engine" in reason:
            command = rebuild_command(self._repository, export_of_model(model), image=self._image)
            return f"Build its engine for this machine: {command}"
        return super()._load_failure_fix(model, reason)

    def _missing_backend_fix(self) -> str:
        if foreign := outside_our_images(self._backends):
            return f"Pass --image with an image that has the backend {', '.join(sorted(foreign))}."
        if outside_stock_image(self._backends):
            return f"Build the image that has it, in the source tree: {BUILD_CPU_IMAGE}"
        return f"Pull the image that has it: docker pull {TRITON_IMAGE}"


def own_shm(memory: BackendMemory) -> str:
    """Return the option for the size of a container's own /dev/shm.

    It is 1 GiB, or twice what the models need for prepared images: encoded ones can be larger.
    """
    size_bytes = 2 * memory.total_bytes
    return OWN_SHM if size_bytes <= 1024 * MIB else f"--shm-size={size_bytes}"


def user_for(repository: Path) -> tuple[int, int]:
    """Return the user and group id that the container runs as: this process's own; the image's for root.

    Nothing in the container needs root, and a process that escapes from it as root would control this
    machine.

    Raises:
        RepositoryError: the image's user cannot read the repository.
    """
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    for path in filter(Path.exists, (repository, *sorted(repository.rglob("*")))):
        needed = 0o005 if path.is_dir() else 0o004
        if path.stat().st_mode & needed != needed:
            raise RepositoryError(
                str(path),
                got=f"mode {path.stat().st_mode & 0o777:o}",
                expected="a path that others can read: the server does not run as root",
                next_step=f"Run: {shlex.join(['chmod', '-R', 'o+rX', str(repository)])}",
            )
    return USER_OF_IMAGE
