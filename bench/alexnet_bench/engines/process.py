"""One engine, or the ceilings of one device, in a process of its own.

Its memory is its own, and if it dies, only its own results are lost. Every request has a deadline, and the
end of the process is noticed at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from alexnet_model.errors import AlexnetError, ExportError
from alexnet_model.gpus import Gpu
from alexnet_model.manifest import RuntimeInfo

from ..child_process import ChildProcess
from .specs import EngineSpec, GateResult, TimedCalls

DEADLINE_S = 900.0  # of one request: compiling takes a minute, the largest batch some seconds
Verbs = dict[str, Callable[..., object]]


class BenchProcess:
    """A child process that executes requests: `with BenchProcess() as process: process.request("roofs", 1)`.

    Args:
        environment: Variables added to this process's own.
        deadline_s: Longest wait for a reply, in seconds.
        function: The child's function.
    """

    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        deadline_s: float = DEADLINE_S,
        function: str = f"{__name__}:serve_requests",
    ) -> None:
        self._environment = environment
        self._deadline_s = deadline_s
        self._function = function
        self._number = 0

    def __enter__(self) -> Self:
        self._child = ChildProcess(self._function, self._environment)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    def request(self, verb: str, *arguments: object) -> Any:
        """Call a verb of the child, and return its value.

        Raises:
            ExportError: the child replied with an error, has ended, or did not reply before the deadline.
        """
        self.send(verb, *arguments)
        return self.reply()

    def send(self, verb: str, *arguments: object) -> None:
        """Send a request without waiting; `reply` returns the value of the last one.

        Raises:
            ExportError: the child has ended.
        """
        self._number += 1
        try:
            self._child.connection.send((self._number, verb, arguments))
        except OSError as error:
            raise ExportError(f"its process ended ({self._child.ending()})") from error

    def reply(self) -> Any:
        """Wait for the reply to the last request, and return its value.

        Raises:
            ExportError: as `request`.
        """
        connection, until_s = self._child.connection, time.monotonic() + self._deadline_s
        number, value, failure = 0, None, ""
        try:
            while number != self._number:  # skips replies to requests whose wait was interrupted
                if not connection.poll(max(0.0, until_s - time.monotonic())):
                    got = f"no reply in {self._deadline_s:g} s"
                    raise ExportError("its process", got=got, expected="a reply")
                number, value, failure = connection.recv()
        except (EOFError, OSError) as error:
            raise ExportError(f"its process ended ({self._child.ending()})") from error
        if failure:
            raise ExportError(failure)
        return value


class EngineProcess(BenchProcess):
    """A `TimedEngine` in a process of its own, from loading it once to all its batches.

    Every method raises ExportError if the engine fails or its process ends.
    """

    def __init__(
        self, spec: EngineSpec, largest_batch: int, *, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(environment=environment)
        self._spec = spec
        self._largest_batch = largest_batch

    def __enter__(self) -> Self:
        """Start the process, and let it import its libraries while others start too."""
        super().__enter__()
        try:
            self.send("engine", self._spec, self._largest_batch)
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_until_started(self) -> None:
        """Wait until its libraries are imported."""
        self.reply()

    def load(self) -> float:
        """Load the engine, and return milliseconds of loading alone. The process has to have started."""
        return float(self.request("load"))

    def warm_up(self, batch: int, seconds: float, copies: bool) -> float:
        """See `TimedEngine.warm_up`."""
        return float(self.request("warm_up", batch, seconds, copies))

    def time_calls(self, batch: int, seconds: float, at_least: int) -> TimedCalls:
        """See `TimedEngine.time_calls`."""
        timed: TimedCalls = self.request("time_calls", batch, seconds, at_least)
        return timed

    def judge(self, export: Path) -> GateResult:
        """See `TimedEngine.judge`."""
        result: GateResult = self.request("judge", export.absolute())
        return result

    def describe(self) -> RuntimeInfo:
        """See `TimedEngine.describe`."""
        runtime: RuntimeInfo = self.request("describe")
        return runtime


def serve_requests(connection: Connection[Any, Any], verbs: Verbs | None = None) -> None:
    """Execute requests in the child until the connection is closed; an error is a reply too.

    Args:
        connection: Receives `(number, verb, arguments)`; each reply is `(number, value, error message)`.
        verbs: A function for each verb, which may add others; None for those of engines and ceilings.
    """
    verbs = verbs_of_child() if verbs is None else verbs
    with suppress(EOFError):
        while True:
            number, verb, arguments = connection.recv()
            connection.send((number, *execute_request(verbs, verb, *arguments)))


def execute_request(verbs: Verbs, verb: str, *arguments: object) -> tuple[object, str]:
    """Return the value of a verb and the message of its error, which is empty without one."""
    try:
        return verbs[verb](*arguments), ""
    except AlexnetError as error:
        return None, str(error)
    except Exception as error:  # runtimes raise errors of their own types
        first_line = next(iter(str(error).strip().splitlines()), "")
        return None, f"{type(error).__name__}: {first_line}"


def verbs_of_child() -> Verbs:
    """Return the first verbs of a child process: `engine` and `ceilings`, each of which adds its own."""
    verbs: Verbs = {}

    def engine(spec: EngineSpec, largest_batch: int) -> None:
        from .timing import engine_from_spec

        timed = engine_from_spec(spec, largest_batch)
        for verb in (timed.load, timed.warm_up, timed.time_calls, timed.judge, timed.describe):
            verbs[verb.__name__] = verb

    def ceilings(gpu: Gpu | None) -> None:
        from .ceilings import ceilings_of_device

        bench = ceilings_of_device(gpu)
        verbs.update(roofs=bench.roofs, control_rate=bench.control_rate)

    verbs.update(engine=engine, ceilings=ceilings)
    return verbs
