"""Load generators: this process, or several worker processes that share a load.

The parent sends commands to each worker process, which replies to each one. A worker ends when its parent
closes the connection or dies.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Literal, Protocol, Self, TypeAlias

from alexnet_clients import ANONYMOUS, Credentials, ServerUrl, Transport, transport_from_url
from alexnet_model.errors import AlexnetError, ClientError, UsageError

from ..child_process import ChildProcess
from .loop import Clock, LoadRun
from .plans import Segment, loops_for_processes
from .results import LoadResult, combined_in_parallel
from .traffic import Traffic, TrafficSpec

Tick = Callable[[float], None]  # called now and then with the seconds since the load began
_LEAD_S = 0.05  # until a command has reached every worker
_TICK_S = 0.25
_LONGEST_END_S = 5.0  # for a worker to end, or to report after Ctrl-C


def no_tick(_: float) -> None:
    """Show no progress."""


class LoadGenerator(Protocol):
    """Generates loads, one after the other."""

    def prepare(self, spec: TrafficSpec) -> None:
        """Build the requests of the loads to come."""

    def run(self, segment: Segment, tick: Tick = no_tick) -> LoadResult:
        """Run a load, which starts now. After Ctrl-C the result is what was counted until then."""


class InProcessGenerator:
    """Generate loads in this process: for tests, and where a load is small.

    Args:
        transport: The connection to the server.
        clock: The source of time; by default the system's.
    """

    def __init__(self, transport: Transport, clock: Clock | None = None) -> None:
        self._transport = transport
        self._clock = clock or Clock()

    def prepare(self, spec: TrafficSpec) -> None:
        self._traffic = spec.traffic(self._transport)

    def run(self, segment: Segment, tick: Tick = no_tick) -> LoadResult:
        return LoadRun(replace(segment, starts_s=self._clock.now_s()), self._traffic, self._clock).result()


@dataclass(frozen=True, kw_only=True)
class _Prepare:
    """A command: connect to this server unless connected already, and build these requests."""

    url: str
    credentials: Credentials
    spec: TrafficSpec


_STOP: Literal["stop"] = "stop"  # end the running load; it is not replied to
_DONE: Literal["done"] = "done"
_Command: TypeAlias = _Prepare | Segment
_WorkerReply: TypeAlias = LoadResult | AlexnetError | Literal["done"]


class MultiProcessGenerator:
    """Generate loads in worker processes, which live inside the `with` or until this process ends.

    Args:
        url: The server's URL.
        processes: How many workers share each load.
        credentials: TLS files and headers of the client. They are sent to the workers, so the headers must
            be a mapping.

    Raises:
        UsageError: `processes` is below 1.
        InvalidUrl: the URL does not parse.
    """

    def __init__(self, url: str, processes: int = 1, *, credentials: Credentials = ANONYMOUS) -> None:
        if processes < 1:
            raise UsageError("workers", got=str(processes), expected="at least 1")
        ServerUrl.parse(url)  # an error here is clearer than one in each worker
        self._url = url
        self._credentials = credentials
        self._count = processes
        self._children: list[ChildProcess] = []

    @property
    def process_ids(self) -> tuple[int, ...]:
        return tuple(child.process.pid for child in self._children)

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        children, self._children = self._children, []
        for child in children:
            child.connection.close()  # all of them first, so that they end at the same time
        for child in children:
            child.close()

    def prepare(self, spec: TrafficSpec) -> None:
        if not self._children:  # an error has ended the workers
            self._open()
        command = _Prepare(url=self._url, credentials=self._credentials, spec=spec)
        numbers = range(self._count)
        for number in numbers:
            self._send(number, command)
        replies: dict[int, _WorkerReply] = {}
        self._receive_from(numbers, replies)
        assert set(replies.values()) == {_DONE}

    def run(self, segment: Segment, tick: Tick = no_tick) -> LoadResult:
        """Run a load that starts now.

        Args:
            segment: The whole load; it is split among the workers. Its start is set here.
            tick: Called about four times a second.

        Raises:
            ClientError: a worker died. The next `prepare` starts new ones.
            KeyboardInterrupt: Ctrl-C came, and no worker reported a result.
        """
        starts_s = time.monotonic() + _LEAD_S
        loops = loops_for_processes(segment.loop, self._count)
        busy = range(len(loops))
        for number, loop in enumerate(loops):
            statistics_of = () if number else segment.statistics_of
            seed = segment.seed + number
            share = replace(segment, loop=loop, starts_s=starts_s, seed=seed, statistics_of=statistics_of)
            self._send(number, share)
        replies: dict[int, _WorkerReply] = {}
        try:
            self._receive_from(busy, replies, tick=lambda: tick(time.monotonic() - starts_s))
        except KeyboardInterrupt:
            for number in busy:
                self._send(number, _STOP)
            self._receive_from(busy, replies, longest_s=_LONGEST_END_S)
        results = [reply for reply in replies.values() if isinstance(reply, LoadResult)]
        if not results:
            raise KeyboardInterrupt
        return combined_in_parallel(results)

    def _open(self) -> None:
        """Start the workers, and wait until they have imported their modules.

        That takes half a second of a core each. The calibration workload, which comes next, would find a
        busy machine.
        """
        try:
            for _ in range(self._count):
                self._children.append(ChildProcess(f"{__name__}:run_worker"))
            self._receive_from(range(self._count), {})
        except BaseException:
            self.close()
            raise

    def _send(self, number: int, command: _Command | str) -> None:
        with contextlib.suppress(ConnectionError):  # receiving its reply finds that the worker has died
            self._children[number].connection.send(command)

    def _receive_from(
        self,
        numbers: Collection[int],
        replies: dict[int, _WorkerReply],
        *,
        tick: Callable[[], None] = lambda: None,
        longest_s: float = math.inf,
    ) -> None:
        """Add one reply from each worker to `replies`."""
        until_s = time.monotonic() + longest_s
        while (left := [n for n in numbers if n not in replies]) and time.monotonic() < until_s:
            tick()
            ready = wait([self._children[number].connection for number in left], timeout=_TICK_S)
            for number in left:
                if self._children[number].connection in ready:
                    replies[number] = self._receive(number)

    def _receive(self, number: int) -> _WorkerReply:
        try:
            reply: _WorkerReply = self._children[number].connection.recv()
            if isinstance(reply, AlexnetError):
                raise reply
        except (EOFError, OSError) as error:
            ending = self._children[number].ending()
            self.close()
            raise ClientError(
                f"process {number + 1} of the load generator",
                got=ending,
                expected="the result of its load",
                next_step="Measure again.",
            ) from error
        except AlexnetError:
            self.close()  # the other workers' replies would be read as replies to the next command
            raise
        return reply


class _LoadWorker:
    """The worker's side: execute one command at a time."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._commands: SimpleQueue[_Command] = SimpleQueue()
        self._transport: Transport | None = None
        self._traffic: Traffic | None = None
        self._run: LoadRun | None = None

    def serve(self) -> None:
        threading.Thread(target=self._listen, name="commands", daemon=True).start()
        self._connection.send(_DONE)  # ready
        while True:
            command = self._commands.get()
            try:
                reply = self._execute(command)
            except AlexnetError as error:
                reply = error
            self._connection.send(reply)

    def _listen(self) -> None:
        while True:
            try:
                command = self._connection.recv()
            except (EOFError, OSError):
                os._exit(0)  # the parent is gone, so the other thread's work is of no use
            if command == _STOP:
                if self._run is not None:
                    self._run.stop()
            else:
                if isinstance(command, Segment) and self._traffic is not None:
                    self._run = LoadRun(command, self._traffic)  # here, so that a stop right after finds it
                self._commands.put(command)

    def _execute(self, command: _Command) -> _WorkerReply:
        if isinstance(command, Segment):
            assert self._run is not None
            return self._run.result()
        if self._transport is None:
            self._transport = transport_from_url(ServerUrl.parse(command.url), command.credentials)
        self._traffic = command.spec.traffic(self._transport)
        gc.collect()
        gc.freeze()  # a collection that looks through all of these objects would delay a send
        return _DONE


def run_worker(connection: Connection[Any, Any]) -> None:
    """Run a worker process on its end of the connection; never returns."""
    _LoadWorker(connection).serve()
