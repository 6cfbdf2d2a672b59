"""A Triton server without Docker and without a GPU: the one inside the nvidia-pytriton wheel.

    with EmbeddedServer(repository) as server:
        print(server.grpc_url, server.models)

It listens on loopback only, because its Triton (2.51) has published security bulletins. Use it on laptops and
in continuous integration.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
from pathlib import Path
from typing import Unpack

from alexnet_model.errors import EngineRefused, ServerDied, ServerError, UsageError
from alexnet_model.gpus import gpus_here
from alexnet_model.runtimes import runtime_of_backend

from ..engine_compatibility import check_engines, targets_of_machine
from ..repositories.backends import backends_of_repository, loads_in_python
from .backend_memory import memory_of_repository
from .process_server import LOOPBACK, SHOWN_LOG_LINES, Launch, ProcessServer, ServerOptions, launch_folder
from .tritonserver import (
    assemble_backends,
    environment_of,
    load_options,
    server_options,
    shm_prefix_option,
    shm_size_option,
    wheel_of_this_python,
)

STUB = "triton_python_backend_stub"
IDLE_CPU_S = 0.03  # in a second: a server without requests takes less


class EmbeddedServer(ProcessServer):
    """A `Server` that starts on entering its `with` block and has ended after it.

    Args:
        repository: The model repository.
        options: Keyword arguments as in `ServerOptions`; every address but loopback is refused.

    Raises:
        RepositoryError: the repository is missing or has no model.
        EngineRefused: a model needs a backend that the embedded Triton does not have, or its engine was
            compiled for another machine.
        ManifestError: the record of an engine is missing or broken.
        PortTaken: another process listens on a requested port.
        ServerError: a file of `tls` cannot be used, or /dev/shm has less free space than the models need.
        UsageError: a port, the address or the timeout is invalid.
        MissingExtra: the [embedded] extra is not installed.
    """

    _name = "embedded server"

    def __init__(self, repository: Path, **options: Unpack[ServerOptions]) -> None:
        super().__init__(repository, **options)
        self._check_backends()
        self._memory = memory_of_repository(self._repository)
        self._memory.check()
        self._wheel = wheel_of_this_python()
        self._stubs: dict[int, str] = {}  # process id to model name
        self._cpu_s = 0.0

    def _checked_address(self, address: str, *, shared_memory: bool) -> str:
        if address not in (LOOPBACK, "localhost"):
            raise UsageError(
                "address of the embedded server",
                got=address,
                expected=LOOPBACK,
                next_step="Its Triton has known vulnerabilities: to serve other machines, add --with docker.",
            )
        return LOOPBACK

    def _check_backends(self) -> None:
        """Refuse models for a backend that neither this project nor another distribution brings as Python.

        Engines that this Python loads are compared with it and with this machine.
        """
        backends = backends_of_repository(self._repository)
        for model, backend in backends.items():
            runtime = runtime_of_backend(backend)
            if runtime is not None and runtime.backend_folder is None:
                words = ["alexnet", "serve", "--with", "docker", "--repository", str(self._repository)]
                raise EngineRefused(
                    f"{self._repository}: model {model}",
                    got=f"a model for {runtime.title}",
                    expected="a model that the embedded server can run",
                    next_step=f"Serve it with Docker: {shlex.join(words)}",
                )
        if loads_in_python(backends.values()):
            check_engines(self._repository, targets_of_machine(gpus_here()))

    def _prepare_launch(self) -> Launch:
        shm_prefix = f"alexnet_{os.getpid()}_{secrets.token_hex(4)}_"
        with launch_folder(self._name) as folder:
            if not re.fullmatch(r"[A-Za-z0-9_./-]+", str(folder)):  # Triton passes it through a shell
                raise ServerError(
                    f"temporary folder {folder}",
                    got="a name that is unsafe to pass to Triton",
                    expected="letters, digits, '_', '.', '-' and '/' only",
                    next_step="Set TMPDIR to another folder.",
                )
            # Plain names, because the path of the repository may have characters that a shell interprets.
            (folder / "models").symlink_to(self._repository)
            assemble_backends(self._wheel, folder / "backends")
        return Launch(
            command=[
                str(self._wheel.binary),
                *server_options(
                    folder / "models", tls=self._tls, shared_memory=self._shared_memory, trace=self._trace
                ),
                *load_options(self._models),
                f"--backend-directory={folder / 'backends'}",
                shm_prefix_option(shm_prefix),
                shm_size_option(self._memory.region_bytes),
                *(f"--{name}-address={LOOPBACK}" for name in self._ports),
                *(f"--{name}-port={port}" for name, port in self._ports.items()),
                "--allow-gpu-metrics=false",
                "--allow-cpu-metrics=false",  # a stop would wait for the next reading of their thread
            ],
            environment=environment_of(self._wheel),
            shm_prefix=shm_prefix,
            folder=str(folder),
        )

    def _missing_backend_fix(self) -> str:
        return "Install the packages of its backends: pip install 'alexnet-serving[embedded]'"

    def _on_ready(self) -> None:
        self._stubs = stubs_of(self._process.pid)

    def _has_finished(self) -> bool:
        # Triton waits for every HTTP connection, also for one without a request, for 15 seconds. A request
        # in flight takes the time of a processor.
        before, self._cpu_s = self._cpu_s, cpu_s_of(self._process.pid)
        return self._cpu_s - before < IDLE_CPU_S

    def _check_model_processes(self) -> None:
        for pid, model in self._stubs.items():
            if not is_alive(pid, self._process.pid) and not self._stopping.is_set():
                raise ServerDied(
                    f"{self._name}: model {model}",
                    got="its process ended, so Triton answers every request for it with an error",
                    expected="a running process until the server is stopped",
                    next_step=f"Start the server again. Its last lines:\n{self._log.last(SHOWN_LOG_LINES)}",
                )


def stubs_of(process_group: int) -> dict[int, str]:
    """Return the running Python backend processes of a server, as process id to model name.

    Triton 2.51 does not restart one that ended: it answers every request for its model with an error and
    still reports that it is ready. So a check of the server has to include these processes.
    """
    return {
        pid: model
        for path in Path("/proc").glob("[0-9]*")
        if is_alive(pid := int(path.name), process_group) and (model := _model_of(path))
    }


def cpu_s_of(process_group: int) -> float:
    """Return the processor time that the running processes of a group have taken, in seconds."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*"):
        fields = _stat_of(int(path.name))
        if len(fields) > 12 and fields[2] == str(process_group):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def is_alive(pid: int, process_group: int) -> bool:
    """Return whether a process of that group runs; one that ended and was not reaped does not."""
    fields = _stat_of(pid)
    return bool(fields) and fields[0] not in ("Z", "X") and int(fields[2]) == process_group


def _stat_of(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; none if the process has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return stat.rpartition(")")[2].split()  # the program's name before it may hold anything


def _model_of(process: Path) -> str | None:
    """Read the model's name from `.../triton_python_backend_stub REPOSITORY/MODEL/VERSION/FILE ...`."""
    try:
        arguments = (process / "cmdline").read_text().split("\0")
    except OSError:
        return None
    return Path(arguments[1]).parent.parent.name if arguments[0].endswith(STUB) else None
