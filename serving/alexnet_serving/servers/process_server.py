"""A Triton server as a child process: start it, wait until it is ready, notice its end, stop it, clean up.

The server's processes, shared memory, folder and container are removed even if this process or the server is
killed: a watchdog process (`cleanup_watchdog.py`) notices when this process ends.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self, TypedDict

from alexnet_model.errors import (
    AlexnetError,
    ServerDied,
    ServerError,
    UsageError,
    os_error_reason,
)
from alexnet_model.processes import check_same_process

from ..repositories.writing import models_of_repository
from . import cleanup_watchdog
from .backend_memory import SHM, how_to_enlarge
from .ports import resolve_ports
from .tls import ServerTls, checked_tls
from .tracing import ServerTrace
from .tritonserver import EXIT_TIMEOUT_S

LOOPBACK = "127.0.0.1"
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 (only compared with an address that the user gave)
READY_POLL_S = 0.05
CHECK_INTERVAL_S = 0.25
IDLE_CHECK_INTERVAL_S = 1.0
SHOWN_LOG_LINES = 20
KEPT_LOG_LINES = 400
# Triton reports in three ways that a model does not load: no version, a broken configuration, or a backend
# that refused it.
FAILED_TO_LOAD = re.compile(
    r"(?:failed to load(?: model)?|Poll failed for model directory) '(?P<model>[^']+)'"
    r"(?: version \d+)?: (?P<reason>.*)"
)
# Triton's messages for a backend, or a package that it imports, that is missing.
NO_BACKEND = re.compile(r"No module named|ModuleNotFoundError|unable to find backend library for backend")

NO_SHARED_MEMORY = "Unable to initialize shared memory"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How to start a server's process, and which of its resources to remove if it is killed.

    Attributes:
        command: The command line.
        environment: The environment; None takes this process's own.
        shm_prefix: The start of the names of its regions in /dev/shm; empty if it has none.
        folder: The working directory, removed at the end; empty if it needs none.
        container: The name of its container; empty without one.
    """

    command: list[str]
    environment: Mapping[str, str] | None = None
    shm_prefix: str = ""
    folder: str = ""
    container: str = ""


@contextlib.contextmanager
def launch_folder(server: str) -> Iterator[Path]:
    """Create a private folder to start a server from; it is removed here only if the block raises.

    Args:
        server: The server's name in the error message.

    Raises:
        ServerError: the operating system refused what the block did in the folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="alexnet-serving-"))
    try:
        yield folder
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise ServerError(server, got=os_error_reason(error), expected=f"to start from {folder}") from error


class ServerOptions(TypedDict, total=False):
    """Options of both servers.

    Attributes:
        grpc_port: The port of gRPC; None (the default) or 0 takes a free one. So do the other two ports.
        http_port: The port of HTTP.
        metrics_port: The port of the metrics.
        address: The IPv4 address to listen on, by default loopback. With `tls` only gRPC leaves loopback.
        tls: Certificate and key of the gRPC port; None (the default) leaves it unencrypted.
        shared_memory: Open Triton's shared-memory interface to every process that reaches a port.
        trace: Where Triton sends OpenTelemetry spans of its requests; None (the default) records none.
        ready_timeout_s: How long to wait until every model is ready, by default 120 s (300 s in Docker).
    """

    grpc_port: int | None
    http_port: int | None
    metrics_port: int | None
    address: str
    tls: ServerTls | None
    shared_memory: bool
    trace: ServerTrace | None
    ready_timeout_s: float


class ProcessServer:
    """The parts of a `Server` that do not depend on its process; subclasses say what to run.

    The arguments are the repository and those of `ServerOptions`.

    Raises:
        RepositoryError: the repository is missing or has no model.
        PortTaken: another process listens on a requested port.
        ServerError: a file of `tls` cannot be used.
        UsageError: a port, the address or the timeout is invalid.
    """

    _name = "server"  # in messages
    _ready_timeout_s = 120.0

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
        trace: ServerTrace | None = None,
        ready_timeout_s: float | None = None,
    ) -> None:
        address = self._checked_address(address, shared_memory=shared_memory)
        if ready_timeout_s is not None:
            self._ready_timeout_s = ready_timeout_s
        if not self._ready_timeout_s > 0:
            got = f"{self._ready_timeout_s:g} s"
            raise UsageError("deadline for readiness", got=got, expected="more than 0 s")
        self._shared_memory = shared_memory
        self._trace = trace
        self._repository = repository.absolute()
        self._models = models_of_repository(self._repository)
        self._tls = checked_tls(tls) if tls is not None else None
        # Triton encrypts gRPC only, so the unencrypted interfaces stay on this machine.
        unencrypted = address if tls is None else LOOPBACK
        self._addresses = {"grpc": address, "http": unencrypted, "metrics": unencrypted}
        self._ports = resolve_ports(
            self._addresses, {"grpc": grpc_port, "http": http_port, "metrics": metrics_port}
        )
        self._made_in_pid = os.getpid()
        self._stopping = threading.Event()
        self._stopping.set()  # until the `with` block is entered
        self._is_interrupted = False
        self._is_broken = False  # whether a process ended that the server cannot work without
        self._ending = threading.RLock()  # held while the server ends: a second caller waits for that
        self._ended = self._cleaned = True
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def grpc_url(self) -> str:
        scheme = "grpc" if self._tls is None else "grpcs"
        return f"{scheme}://{self._host('grpc')}:{self._ports['grpc']}"

    @property
    def http_url(self) -> str:
        return f"http://{self._host('http')}:{self._ports['http']}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self._host('metrics')}:{self._ports['metrics']}/metrics"

    @property
    def models(self) -> tuple[str, ...]:
        return self._models

    def __enter__(self) -> Self:
        """Start the server and return when every model is ready.

        Raises:
            ServerError: a model does not load (the message has Triton's reason), or the deadline passed.
            ServerDied: the server ended for another reason.
        """
        self._check_same_process()
        self._launch = self._prepare_launch()
        self._stopping.clear()
        self._start()
        try:
            self._start_watchdog()
            self._wait_until_ready()
            self._hide_regions()
            self._on_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check(self) -> None:
        self._check_same_process()
        if self._stopping.is_set():
            return
        if self._process.poll() is not None and not self._stopping.is_set():
            raise self._died()
        try:
            self._check_model_processes()
        except ServerDied:
            self._is_broken = True
            raise

    def wait(self) -> None:
        # Polling takes no lock that a signal handler which raises could leave in a wrong state.
        while not (self._is_interrupted or self._stopping.is_set()):
            self.check()
            time.sleep(CHECK_INTERVAL_S)
        self.stop()  # the stop that another thread began may not have finished

    def interrupt(self) -> None:
        if self._is_interrupted and not self._cleaned:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._is_interrupted = True

    def stop(self) -> None:
        if os.getpid() != self._made_in_pid:
            return  # a forked child: the server is its parent's
        self._stopping.set()
        with self._ending:
            if self._ended:
                return
            self._ended = True  # for a signal handler that enters while this thread is here
            try:
                if not self._is_broken:
                    self._process.terminate()
                    self._wait_until_ended()
            finally:  # after the deadline, or an impatient second Ctrl-C
                self._process.kill()
                self._clean_up()

    def _wait_until_ended(self) -> None:
        """Wait until the server has ended, has no more work to do, or the deadline has passed."""
        deadline = time.monotonic() + EXIT_TIMEOUT_S + 5
        while time.monotonic() < deadline:
            try:
                self._process.wait(min(IDLE_CHECK_INTERVAL_S, EXIT_TIMEOUT_S + 5))
            except subprocess.TimeoutExpired:
                if self._has_finished():
                    return
            else:
                return

    def _check_same_process(self) -> None:
        what = f"{self._name} of {self._repository}"
        check_same_process(what, self._made_in_pid, kind=ServerError)

    def _checked_address(self, address: str, *, shared_memory: bool) -> str:
        """Return the IPv4 address to listen on, or raise UsageError."""
        raise NotImplementedError

    def _prepare_launch(self) -> Launch:
        """Return what to run. An error here must leave nothing behind."""
        raise NotImplementedError

    def _on_ready(self) -> None:
        """Note, when the server is ready, which of its processes `_check_model_processes` has to check."""

    def _has_finished(self) -> bool:
        """Return whether a server that is stopping has done nothing since the last call."""
        return False

    def _check_model_processes(self) -> None:
        """Raise ServerDied if the server runs and a process that it cannot work without does not."""

    def _launcher_error(self, returncode: int, output: str) -> AlexnetError | None:
        """Return the error of the program that starts Triton; None if Triton itself ended."""
        return None

    def _exit_reason(self, returncode: int) -> str:
        return f"killed by signal {-returncode}" if returncode < 0 else f"ended with exit code {returncode}"

    def _load_failure_fix(self, model: str, reason: str) -> str:
        """Return the next step after Triton did not load `model` for `reason`."""
        if NO_BACKEND.search(reason):
            return self._missing_backend_fix()
        if NO_SHARED_MEMORY in reason:
            return f"{how_to_enlarge()}."
        lint = shlex.join(["alexnet", "lint", str(self._repository)])
        return f"Check that it is unchanged since its export: {lint}"

    def _missing_backend_fix(self) -> str:
        """Return the next step if a backend, or a package that it imports, is missing."""
        raise NotImplementedError

    def _host(self, interface: str) -> str:
        """Return the address at which this machine reaches an interface."""
        return LOOPBACK if self._addresses[interface] == ALL_ADDRESSES else self._addresses[interface]

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._launch.command,
                env=self._launch.environment,
                cwd=self._launch.folder or None,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group that the terminal's Ctrl-C does not reach
            )
        except OSError as error:
            if self._launch.folder:
                shutil.rmtree(self._launch.folder, ignore_errors=True)
            raise ServerError(
                self._name,
                got=os_error_reason(error),
                expected=f"{self._launch.command[0]} to start",
            ) from error
        self._ended = self._cleaned = False
        assert self._process.stdout is not None
        self._log = LogTail(self._process.stdout)

    def _start_watchdog(self) -> None:
        resources = (self._launch.shm_prefix, self._launch.folder, self._launch.container)
        self._watchdog = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", cleanup_watchdog.__file__),
                *(str(os.getpid()), str(self._process.pid), *resources),
            ],
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
                    self._name,
                    got=f"not ready after {self._ready_timeout_s:g} s",
                    expected=f"{', '.join(self._models)} ready",
                    next_step=f"Raise --ready-timeout, or see its log:\n{self._log.last(SHOWN_LOG_LINES)}",
                )
            time.sleep(READY_POLL_S)

    def _hide_regions(self) -> None:
        """Make the backends' regions readable by this user only: Triton creates them readable by all.

        The processes that use a region have it open, so they keep their access.
        """
        if self._launch.shm_prefix:
            for region in SHM.glob(f"{self._launch.shm_prefix}*"):
                region.chmod(0o600)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self._host("http"), self._ports["http"], timeout=1)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _failed_to_start(self) -> AlexnetError:
        self._log.finish(timeout_s=1)
        failed = self._log.failed_model()
        if failed is None:
            return self._died()
        model, reason = failed
        return ServerError(
            f"{self._repository}: model {model}",
            got=f"{reason!r} from Triton",
            expected="a model that loads",
            next_step=self._load_failure_fix(model, reason),
        )

    def _died(self) -> AlexnetError:
        self._clean_up()
        code = self._process.returncode
        return self._launcher_error(code, self._log.last(SHOWN_LOG_LINES)) or ServerDied(
            self._name,
            got=self._exit_reason(code),
            expected="a running server until it is stopped",
            next_step=f"Its last lines:\n{self._log.last(SHOWN_LOG_LINES)}",
        )

    def _clean_up(self) -> None:
        with self._ending:
            if self._cleaned:
                return
            self._cleaned = True
            self._process.wait()
            cleanup_watchdog.clean_up(
                self._process.pid,
                shm_prefix=self._launch.shm_prefix,
                folder=self._launch.folder,
                container=self._launch.container,
            )
            self._log.finish(timeout_s=1)
            if self._watchdog is not None and self._watchdog.poll() is None:
                self._watchdog.communicate(cleanup_watchdog.PARENT_CLEANED_UP)


class LogTail:
    """The last lines of a process's output, read in a thread so that the process never blocks.

    Nothing is printed, and no file grows.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT_LOG_LINES)
        self._pipe = pipe
        self._thread = threading.Thread(target=self._read, name="server log", daemon=True)
        self._thread.start()

    def last(self, count: int) -> str:
        """Return the last `count` lines, without Triton's tables of its own settings."""
        lines = [line for line in list(self._lines) if line and not line.startswith(("|", "+-"))]
        return "\n".join(lines[-count:])

    def failed_model(self) -> tuple[str, str] | None:
        """Return the first model that Triton could not load and Triton's reason; None if all loaded."""
        lines = list(self._lines)
        for index, line in enumerate(lines):
            match = FAILED_TO_LOAD.search(line.replace("\\'", "'"))
            if match:
                reason = match["reason"].rstrip('" ') or " ".join(lines[index + 1 : index + 4])
                return match["model"], reason
        return None

    def finish(self, timeout_s: float) -> None:
        """Read the rest of the output, until its writers have ended or `timeout_s` has passed."""
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._pipe.close()

    def _read(self) -> None:
        for line in self._pipe:
            self._lines.append(line.decode(errors="replace").rstrip())
