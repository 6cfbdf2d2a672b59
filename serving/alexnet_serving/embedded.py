"""A Triton server without Docker and without a GPU: the one inside the nvidia-pytriton wheel.

    with EmbeddedServer(repository) as server:
        print(server.grpc_url, server.models)

It listens on loopback only, because its Triton (2.51) carries known security bulletins: for laptops and
continuous integration. What it starts it ends, even when either side is killed: a small watcher process
(`aftermath.py`) sees this one go.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

from alexnet_model.errors import ServerDied, ServerError, UsageError

from . import aftermath
from .log_tail import LogTail
from .ports import ports_from_wishes
from .repository import models_of_repository
from .stubs import is_alive, stubs_of
from .tritonserver import (
    EXIT_TIMEOUT_S,
    assemble_backends,
    command_of,
    environment_of,
    wheel_of_this_python,
)

LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1"}
POLL_S = 0.05
CHECK_S = 0.25
SHOWN_LOG_LINES = 20


class EmbeddedServer:
    """A `Server`: starts on entering, ready for requests inside, gone on leaving.

    Ports left out are chosen. Raises on construction, before anything starts:
        RepositoryError: the repository is missing, or has no model.
        PortTaken: something listens on a given port already.
        UsageError: a port, the address or the deadline cannot be.
        MissingExtra: the [embedded] extra is not installed.
    """

    def __init__(
        self,
        repository: Path,
        *,
        grpc_port: int | None = None,
        http_port: int | None = None,
        metrics_port: int | None = None,
        address: str = "127.0.0.1",
        ready_timeout_s: float = 120.0,
    ) -> None:
        if address not in LOOPBACK:
            raise UsageError(
                "address of the embedded server",
                got=address,
                expected="127.0.0.1",
                next_step="Its Triton has known vulnerabilities: serve a network with Docker.",
            )
        if not ready_timeout_s > 0:
            raise UsageError("deadline for readiness", got=f"{ready_timeout_s:g} s", expected="more than 0 s")
        self._repository = repository.absolute()
        self._ready_timeout_s = ready_timeout_s
        self._models = models_of_repository(self._repository)
        self._wheel = wheel_of_this_python()
        self._address = LOOPBACK[address]
        self._ports = ports_from_wishes(
            self._address, {"grpc": grpc_port, "http": http_port, "metrics": metrics_port}
        )
        self._stopping = threading.Event()
        self._stubs: dict[int, str] = {}  # process id to model name
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def grpc_url(self) -> str:
        return f"grpc://{self._address}:{self._ports['grpc']}"

    @property
    def http_url(self) -> str:
        return f"http://{self._address}:{self._ports['http']}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self._address}:{self._ports['metrics']}/metrics"

    @property
    def models(self) -> tuple[str, ...]:
        return self._models

    def __enter__(self) -> Self:
        """Start, and return when every model is ready.

        Raises:
            ServerError: a model does not load (named, with Triton's reason), or the deadline passed.
            ServerDied: the server ended for another reason.
        """
        self._stopping.clear()
        # Plain names whatever the repository's own path is: Triton passes them through a shell.
        self._folder = Path(tempfile.mkdtemp(prefix="alexnet-serving-"))
        try:
            self._start()
        except BaseException as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise ServerError(
                "embedded server",
                got=(error.strerror or str(error)).lower(),
                expected=f"to start from {self._folder}",
            ) from error
        try:
            self._watch()
            self._wait_until_ready()
            self._stubs = stubs_of(self._process.pid)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check(self) -> None:
        if self._stopping.is_set():
            return
        if self._process.poll() is not None:
            raise self._died()
        for pid, model in self._stubs.items():
            if not is_alive(pid, self._process.pid) and not self._stopping.is_set():
                raise ServerDied(
                    f"embedded server: model {model}",
                    got="its process gone, without which Triton answers nothing but errors",
                    expected="running until the server is stopped",
                    next_step=f"Start the server again. Its last lines:\n{self._log.last(SHOWN_LOG_LINES)}",
                )

    def wait(self) -> None:
        while not self._stopping.wait(CHECK_S):
            self.check()

    def stop(self) -> None:
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_TIMEOUT_S + 5)
        finally:  # after the deadline, or an impatient second Ctrl-C
            self._process.kill()
            self._clean_up()

    def _start(self) -> None:
        self._shm_prefix = f"alexnet_{os.getpid()}_{secrets.token_hex(4)}_"
        repository = self._folder / "models"
        repository.symlink_to(self._repository)
        backends = self._folder / "backends"
        assemble_backends(self._wheel, backends)
        command = command_of(
            self._wheel,
            backends=backends,
            repository=repository,
            address=self._address,
            ports=self._ports,
            shm_prefix=self._shm_prefix,
        )
        self._process = subprocess.Popen(
            command,
            env=environment_of(self._wheel),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # one process group with its stubs, and deaf to the terminal's Ctrl-C
        )
        assert self._process.stdout is not None
        self._log = LogTail(self._process.stdout)

    def _watch(self) -> None:
        remains = [str(self._process.pid), self._shm_prefix, str(self._folder)]
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", aftermath.__file__, *remains],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._ready_timeout_s
        while not self._is_ready():
            if self._process.poll() is not None:
                raise self._failed_to_start()
            if time.monotonic() > deadline:
                raise ServerError(
                    "embedded server",
                    got=f"not ready after {self._ready_timeout_s:g} s",
                    expected=f"{', '.join(self._models)} ready",
                    next_step=f"Give it longer, or see its log:\n{self._log.last(SHOWN_LOG_LINES)}",
                )
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self._address, self._ports["http"], timeout=1)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _failed_to_start(self) -> ServerError:
        self._log.finish(timeout_s=1)
        failed = self._log.failed_model()
        if failed is None:
            return self._died()
        model, reason = failed
        return ServerError(
            f"{self._repository}: model {model}",
            got=f"{reason!r} from Triton",
            expected="a model that loads",
            next_step="Export again.",
        )

    def _died(self) -> ServerDied:
        code = self._process.returncode
        self._clean_up()
        return ServerDied(
            "embedded server",
            got=f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}",
            expected="running until it is stopped",
            next_step=f"Its last lines:\n{self._log.last(SHOWN_LOG_LINES)}",
        )

    def _clean_up(self) -> None:
        if not self._folder.exists():
            return
        self._process.wait()
        aftermath.clean_up(self._process.pid, self._shm_prefix, self._folder)
        self._log.finish(timeout_s=1)
        if self._watcher is not None and self._watcher.poll() is None:
            self._watcher.communicate(aftermath.ALL_IS_WELL)
