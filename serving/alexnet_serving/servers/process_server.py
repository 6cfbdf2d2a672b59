"""What servers that are a child process share: starting, noticing a death, stopping, leaving nothing behind.

What it starts it ends, even when either side is killed: a small watcher process
(`cleanup_watchdog.py`) notices when this process ends.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from alexnet_model.errors import AlexnetError, ServerDied, ServerError, UsageError, os_error_reason

from ..repositories.writing import models_of_repository
from . import cleanup_watchdog
from .log_tail import LogTail
from .ports import ports_from_wishes
from .tls import ServerTls, checked_tls
from .tritonserver import EXIT_TIMEOUT_S

POLL_S = 0.05
CHECK_S = 0.25
SHOWN_LOG_LINES = 20
LOOPBACK = "127.0.0.1"
# What Triton says where a model's backend, or a entry that it imports, is not there.
NO_BACKEND = re.compile(r"No module named|ModuleNotFoundError|unable to find backend library for backend")
EVERYWHERE = "0.0.0.0"  # noqa: S104 (it is compared with, never listened on unasked)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A server's process, and what it leaves behind beside itself when it is killed."""

    command: list[str]
    environment: Mapping[str, str] | None = None  # None: this process's own
    shm_prefix: str = ""
    folder: str = ""  # it runs in there
    container: str = ""


@contextlib.contextmanager
def launch_folder(server: str) -> Iterator[Path]:
    """A private folder for what a server starts from. It is gone if this fails, and else when the server is.

    Raises:
        ServerError: what was done in it the disk has refused.
    """
    folder = Path(tempfile.mkdtemp(prefix="alexnet-serving-"))
    try:
        yield folder
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise ServerError(server, got=os_error_reason(error), expected=f"to start from {folder}") from error


class ProcessServer:
    """A `Server` but for its process: subclasses say what to run, and read what it says of itself.

    Ports left out are chosen. Raises on construction, before anything starts:
        RepositoryError: the repository is missing, or has no model.
        PortTaken: something listens on a given port already.
        ServerError: a file of `tls` cannot be used.
        UsageError: a port or the deadline cannot be.
    """

    _name = "server"  # in messages

    def __init__(
        self,
        repository: Path,
        *,
        grpc_port: int | None,
        http_port: int | None,
        metrics_port: int | None,
        address: str,
        tls: ServerTls | None,
        ready_timeout_s: float,
    ) -> None:
        if not ready_timeout_s > 0:
            raise UsageError("deadline for readiness", got=f"{ready_timeout_s:g} s", expected="more than 0 s")
        self._repository = repository.absolute()
        self._ready_timeout_s = ready_timeout_s
        self._models = models_of_repository(self._repository)
        self._tls = checked_tls(tls) if tls is not None else None
        # Triton encrypts gRPC only: what it would say in the clear then stays on this machine.
        beside = address if tls is None else LOOPBACK
        self._addresses = {"grpc": address, "http": beside, "metrics": beside}
        self._ports = ports_from_wishes(
            self._addresses, {"grpc": grpc_port, "http": http_port, "metrics": metrics_port}
        )
        self._stopping = threading.Event()
        self._stopping.set()  # until it is entered
        self._ending = threading.RLock()  # held while the server ends: a second caller waits until it is gone
        self._ended = self._cleaned = True
        self._watcher: subprocess.Popen[bytes] | None = None

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
        """Start, and return when every model is ready.

        Raises:
            ServerError: a model does not load (named, with Triton's reason), or the deadline passed.
            ServerDied: the server ended for another reason.
        """
        self._launch = self._prepared()
        self._stopping.clear()
        self._start()
        try:
            self._watch()
            self._wait_until_ready()
            self._look_around()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check(self) -> None:
        if self._stopping.is_set():
            return
        if self._process.poll() is not None and not self._stopping.is_set():
            raise self._died()
        self._check_parts()

    def wait(self) -> None:
        while not self._stopping.wait(CHECK_S):
            self.check()
        self.stop()  # whoever has begun it may not be done

    def stop(self) -> None:
        self._stopping.set()
        with self._ending:
            if self._ended:
                return
            self._ended = True  # for a signal handler that comes here while this thread is here
            self._process.terminate()
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(EXIT_TIMEOUT_S + 5)
            finally:  # after the deadline, or an impatient second Ctrl-C
                self._process.kill()
                self._clean_up()

    def _prepared(self) -> Launch:
        """What to run; whatever has to be asked or made first is asked and made here, or nothing is left."""
        raise NotImplementedError

    def _look_around(self) -> None:
        """The server is ready: note what is to be watched from now on."""

    def _check_parts(self) -> None:
        """Raise ServerDied if the process lives and something without which it is useless does not."""

    def _own_error(self, returncode: int, said: str) -> AlexnetError | None:
        """What ended the process, where that was not Triton."""
        return None

    def _words_for(self, returncode: int) -> str:
        """How the process ended."""
        return f"killed by signal {-returncode}" if returncode < 0 else f"ended with exit code {returncode}"

    def _mending(self, reason: str) -> str:
        """The next step after Triton has refused a model."""
        if NO_BACKEND.search(reason):
            return self._backend_step()
        lint = shlex.join(["alexnet", "lint", str(self._repository)])
        return f"See whether it is still what was exported: {lint}"

    def _backend_step(self) -> str:
        """What brings the backend that is not there, with the entries that it imports."""
        raise NotImplementedError

    def _host(self, what: str) -> str:
        """Where this machine reaches a port: a server that listens everywhere is here too."""
        return LOOPBACK if self._addresses[what] == EVERYWHERE else self._addresses[what]

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._launch.command,
                env=self._launch.environment,
                cwd=self._launch.folder or None,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # one group with its children, and deaf to the terminal's Ctrl-C
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

    def _watch(self) -> None:
        remains = (self._launch.shm_prefix, self._launch.folder, self._launch.container)
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", cleanup_watchdog.__file__, str(self._process.pid), *remains],
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
                    next_step=f"Give it longer, or see its log:\n{self._log.last(SHOWN_LOG_LINES)}",
                )
            time.sleep(POLL_S)

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
            next_step=self._mending(reason),
        )

    def _died(self) -> AlexnetError:
        self._clean_up()
        code = self._process.returncode
        return self._own_error(code, self._log.last(SHOWN_LOG_LINES)) or ServerDied(
            self._name,
            got=self._words_for(code),
            expected="running until it is stopped",
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
            if self._watcher is not None and self._watcher.poll() is None:
                self._watcher.communicate(cleanup_watchdog.ALL_IS_WELL)
