"""A Triton server without Docker and without a GPU: the one inside the nvidia-pytriton wheel.

    with EmbeddedServer(repository) as server:
        print(server.grpc_url, server.models)

It listens on loopback only, because its Triton (2.51) carries known security bulletins: for laptops and
continuous integration.
"""

from __future__ import annotations

import os
import secrets
import shlex
from pathlib import Path

from alexnet_model.errors import EngineRefused, ServerDied, UsageError

from ..repositories.backends_in import backends_of_repository
from ..repositories.model_entries import TENSORRT
from .backend_processes import is_alive, stubs_of
from .process_server import LOOPBACK, SHOWN_LOG_LINES, Launch, ProcessServer, launch_folder
from .tls import ServerTls
from .tritonserver import assemble_backends, command_of, environment_of, wheel_of_this_python


class EmbeddedServer(ProcessServer):
    """A `Server`: starts on entering, ready for requests inside, gone on leaving.

    Ports left out are chosen. `shared_memory` opens Triton's interface for it to every process that reaches a
    port. Raises on construction, before anything starts:
        RepositoryError: the repository is missing, or has no model.
        EngineRefused: one of its models is a TensorRT engine.
        PortTaken: something listens on a given port already.
        ServerError: a file of `tls` cannot be used.
        UsageError: a port, the address or the deadline cannot be.
        MissingExtra: the [embedded] extra is not installed.
    """

    _name = "embedded server"

    def __init__(
        self,
        repository: Path,
        *,
        grpc_port: int | None = None,
        http_port: int | None = None,
        metrics_port: int | None = None,
        address: str = LOOPBACK,
        tls: ServerTls | None = None,
        shared_memory: bool = False,
        ready_timeout_s: float = 120.0,
    ) -> None:
        if address not in (LOOPBACK, "localhost"):
            raise UsageError(
                "address of the embedded server",
                got=address,
                expected=LOOPBACK,
                next_step="Its Triton has known vulnerabilities: serve a network with Docker.",
            )
        super().__init__(
            repository,
            grpc_port=grpc_port,
            http_port=http_port,
            metrics_port=metrics_port,
            address=LOOPBACK,
            tls=tls,
            ready_timeout_s=ready_timeout_s,
        )
        for model, backend in backends_of_repository(self._repository).items():
            if backend == TENSORRT:
                words = ["alexnet", "serve", "--with", "docker", "--repository", str(self._repository)]
                raise EngineRefused(
                    f"{self._repository}: model {model}",
                    got="a TensorRT engine",
                    expected="a model that the embedded server can run",
                    next_step=f"Serve it so: {shlex.join(words)}",
                )
        self._shared_memory = shared_memory
        self._wheel = wheel_of_this_python()
        self._stubs: dict[int, str] = {}  # process id to model name

    def _prepared(self) -> Launch:
        self._shm_prefix = f"alexnet_{os.getpid()}_{secrets.token_hex(4)}_"
        with launch_folder(self._name) as self._folder:
            # Plain names whatever the repository's own path is: Triton passes them through a shell.
            models = self._folder / "models"
            backends = self._folder / "backends"
            models.symlink_to(self._repository)
            assemble_backends(self._wheel, backends)
            command = command_of(
                self._wheel,
                backends=backends,
                repository=models,
                address=LOOPBACK,
                ports=self._ports,
                shm_prefix=self._shm_prefix,
                tls=self._tls,
                shared_memory=self._shared_memory,
            )
        return Launch(
            command=command,
            environment=environment_of(self._wheel),
            shm_prefix=self._shm_prefix,
            folder=str(self._folder),
        )

    def _backend_step(self) -> str:
        return "Install what it is served by: pip install 'alexnet-serving[embedded]'"

    def _look_around(self) -> None:
        self._stubs = stubs_of(self._process.pid)

    def _check_parts(self) -> None:
        for pid, model in self._stubs.items():
            if not is_alive(pid, self._process.pid) and not self._stopping.is_set():
                raise ServerDied(
                    f"{self._name}: model {model}",
                    got="its process gone, without which Triton answers nothing but errors",
                    expected="running until the server is stopped",
                    next_step=f"Start the server again. Its last lines:\n{self._log.last(SHOWN_LOG_LINES)}",
                )
