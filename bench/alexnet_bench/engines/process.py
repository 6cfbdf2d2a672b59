"""One engine, or the ceilings of one device, in a process of its own.

Its memory is its own, and if it dies it takes nothing else along. The parent writes one JSON object a line to
the child's standard input, and reads one reply for each from its standard output, in order. Every wait has a
deadline, and the end of a process is noticed at once. The child is this module, run as

    python -P -m alexnet_bench.engines.process
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
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TextIO

from alexnet_model.errors import AlexnetError, ExportError
from alexnet_model.gpus import Gpu
from alexnet_model.manifest import RuntimeInfo
from alexnet_model.records import Record

from .specs import EngineSpec, GateResult, TimedCalls

COMMAND = (sys.executable, "-P", "-m", "alexnet_bench.engines.process")
DEADLINE_S = 900.0  # of one request: compiling takes a minute, the largest batch some seconds
CLOSING_S = 10.0
Verbs = dict[str, Callable[..., object]]


class BenchProcess:
    """A child process that executes requests: `with BenchProcess() as process: process.request("roofs")`."""

    def __init__(
        self,
        command: tuple[str, ...] = COMMAND,
        *,
        environment: Mapping[str, str] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """
        Args:
            command: The child's command line.
            environment: Variables added to this process's own.
            deadline_s: Longest wait for a reply, in seconds.
        """
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
            start_new_session=True,  # a process group with its children, which Ctrl-C does not reach
        )
        return self

    def __exit__(self, *_: object) -> None:
        """End the child: first by the end of its input, after a deadline by SIGKILL."""
        with contextlib.suppress(OSError):  # it has ended already
            self._stdin.close()
        try:
            self._process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            pass
        finally:  # after the deadline, or a second Ctrl-C
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._stdout.close()
            self._errors.close()

    def request(self, verb: str, **values: object) -> Any:
        """Send a request, and return the value of its reply.

        Args:
            verb: What to do.
            values: Its arguments, as JSON can hold them.

        Raises:
            ExportError: the child replied with an error, has ended, or did not reply before the deadline.
        """
        self._number += 1
        line = json.dumps({"number": self._number, "verb": verb, **values}).encode() + b"\n"
        try:
            self._stdin.write(line)
            self._stdin.flush()
        except OSError as error:
            raise self._ended() from error
        reply = self._reply()
        if "error" in reply:
            raise ExportError(reply["error"])
        return reply["value"]

    def _reply(self) -> dict[str, Any]:
        """Read the reply to the latest request; skip replies to requests whose wait was interrupted."""
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
                        "its process", got=f"no reply in {self._deadline_s:g} s", expected="a reply"
                    )
                piece = os.read(self._stdout.fileno(), 1 << 16)
                if not piece:
                    raise self._ended()
                self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _ended(self) -> ExportError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSING_S)
        code = self._process.returncode
        ending = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        self._errors.seek(0)
        lines = self._errors.read()[-4096:].decode(errors="replace").strip().splitlines()
        last = f": {lines[-1].strip()}" if lines else ""
        return ExportError(f"its process ended ({ending}){last}")

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    @property
    def _stdout(self) -> Any:
        return self._process.stdout


class EngineProcess(BenchProcess):
    """A `TimedEngine` in a process of its own.

    Every method raises ExportError if the engine fails or its process ends.
    """

    def __init__(
        self, spec: EngineSpec, largest_batch: int, *, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(environment=environment)
        self._spec = spec
        self._largest_batch = largest_batch

    def load(self) -> float:
        """Load the engine, and return milliseconds of loading alone."""
        self.request("engine", spec=self._spec.model_dump(mode="json"), largest_batch=self._largest_batch)
        return float(self.request("load"))

    def warm_up(self, batch: int, seconds: float) -> float:
        """See `TimedEngine.warm_up`."""
        return float(self.request("warm_up", batch=batch, seconds=seconds))

    def time_calls(self, batch: int, seconds: float, at_least: int) -> TimedCalls:
        """See `TimedEngine.time_calls`."""
        reply = self.request("time_calls", batch=batch, seconds=seconds, at_least=at_least)
        return TimedCalls.model_validate(reply)

    def judge(self, export: Path) -> GateResult:
        """See `TimedEngine.judge`."""
        return GateResult.model_validate(self.request("judge", export=str(export.absolute())))

    def describe(self) -> RuntimeInfo:
        """See `TimedEngine.describe`."""
        return RuntimeInfo.model_validate(self.request("describe"))


def execute_requests(requests: Iterable[str], replies: TextIO, verbs: Verbs) -> None:
    """Execute one request a line and write one reply for each; an error is a reply too.

    Args:
        requests: Lines of JSON with a number, a verb and its arguments.
        replies: Where the replies go.
        verbs: A function for each verb. They may add to it.
    """
    for line in requests:
        request: dict[str, Any] = json.loads(line)
        number, verb = request.pop("number"), request.pop("verb")
        try:
            reply = {"number": number, "value": _as_json(verbs[verb](**request))}
        except AlexnetError as error:
            reply = {"number": number, "error": str(error)}
        except Exception as error:  # whatever a runtime raises concerns its engine alone
            first_line = next(iter(str(error).strip().splitlines()), "")
            reply = {"number": number, "error": f"{type(error).__name__}: {first_line}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def verbs_of_child() -> Verbs:
    """Return the first verbs of a child process: `engine` and `ceilings`, each of which adds its own."""
    verbs: Verbs = {}

    def engine(spec: dict[str, Any], largest_batch: int) -> None:
        from .timing import engine_from_spec

        timed = engine_from_spec(EngineSpec.model_validate(spec), largest_batch)
        for verb in (timed.load, timed.warm_up, timed.time_calls, timed.describe):
            verbs[verb.__name__] = verb
        verbs["judge"] = lambda export: timed.judge(Path(export))

    def ceilings(gpu: dict[str, Any] | None) -> None:
        from .ceilings import ceilings_of_device

        verbs["roofs"] = ceilings_of_device(None if gpu is None else Gpu(**gpu)).roofs

    verbs.update(engine=engine, ceilings=ceilings)
    return verbs


def _as_json(value: object) -> object:
    if isinstance(value, Record):
        return value.model_dump(mode="json")
    return [_as_json(one) for one in value] if isinstance(value, list | tuple) else value


def main() -> None:
    """Serve requests until the input ends. What libraries print to standard output goes to standard error."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    execute_requests(sys.stdin, replies, verbs_of_child())


if __name__ == "__main__":
    main()
