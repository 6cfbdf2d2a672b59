"""An engine in a process of its own: its memory is its own, and when it dies it takes nothing along.

Every wait has a deadline, and a process that ends is noticed at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from alexnet_model.errors import ExportError
from alexnet_model.manifest import RuntimeInfo

from .specs import EngineSlice, EngineSpec, Judged

COMMAND = (sys.executable, "-P", "-m", "alexnet_bench.engines.worker")
DEADLINE_S = 900.0  # of one request: compiling takes a minute, a slice at the largest batch some seconds
CLOSING_S = 10.0


class Worker:
    """A process that answers requests: `with Worker() as worker: worker.ask("roofs")`."""

    def __init__(
        self,
        command: tuple[str, ...] = COMMAND,
        *,
        environment: Mapping[str, str] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._command = command
        self._environment = {**os.environ, **(environment or {})}
        self._deadline_s = deadline_s
        self._number = 0
        self._read = b""

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # one group with its children, and deaf to the terminal's Ctrl-C
        )
        return self

    def __exit__(self, *_: object) -> None:
        """End it; it is asked to by the end of its input."""
        with contextlib.suppress(OSError):  # it is gone already
            self._stdin.close()
        try:
            self._process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            pass
        finally:  # after the deadline, or an impatient second Ctrl-C
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._stdout.close()
            self._errors.close()

    def ask(self, verb: str, **values: object) -> Any:
        """The reply's value.

        Raises:
            ExportError: the reply was an error, or the process has died, or did not answer in time.
        """
        self._number += 1
        request = json.dumps({"number": self._number, "verb": verb, **values}).encode() + b"\n"
        try:
            self._stdin.write(request)
            self._stdin.flush()
        except OSError as error:
            raise self._died() from error
        reply = self._reply()
        if "error" in reply:
            raise ExportError(reply["error"])
        return reply["value"]

    def _reply(self) -> dict[str, Any]:
        """To the latest request: replies to earlier ones, whose waiting was interrupted, are passed over."""
        while (reply := json.loads(self._line()))["number"] != self._number:
            pass
        found: dict[str, Any] = reply
        return found

    def _line(self) -> bytes:
        deadline = time.monotonic() + self._deadline_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in self._read:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise ExportError(
                        "its process", got=f"no answer in {self._deadline_s:g} s", expected="one"
                    )
                piece = os.read(self._stdout.fileno(), 1 << 16)
                if not piece:
                    raise self._died()
                self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _died(self) -> ExportError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSING_S)
        code = self._process.returncode
        ending = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        self._errors.seek(0)
        said = self._errors.read()[-4096:].decode(errors="replace").strip().splitlines()
        last = f": {said[-1].strip()}" if said else ""
        return ExportError(f"its process ended ({ending}){last}")

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    @property
    def _stdout(self) -> Any:
        return self._process.stdout


class EngineProcess(Worker):
    """One engine of the ladder. Every verb raises ExportError where the engine fails or its process dies."""

    def __init__(
        self, spec: EngineSpec, largest: int, *, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(environment=environment)
        self._spec = spec
        self._largest = largest

    def load(self) -> float:
        """Milliseconds, of loading alone."""
        self.ask("engine", spec=self._spec.model_dump(mode="json"), largest=self._largest)
        return float(self.ask("load"))

    def warm(self, batch: int, seconds: float) -> float:
        """Milliseconds of the first call."""
        return float(self.ask("warm", batch=batch, seconds=seconds))

    def slice(self, batch: int, seconds: float, at_least: int) -> EngineSlice:
        return EngineSlice.model_validate(self.ask("slice", batch=batch, seconds=seconds, at_least=at_least))

    def judge(self, export: Path) -> Judged:
        """By the gate of the export in that folder, to the largest batch that the engine was opened for."""
        return Judged.model_validate(
            self.ask("judge", export=str(export.absolute()), max_batch=self._largest)
        )

    def describe(self) -> RuntimeInfo:
        return RuntimeInfo.model_validate(self.ask("describe"))
