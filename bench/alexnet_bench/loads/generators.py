"""Who generates a load: this process, or worker processes that share it."""

from __future__ import annotations

import contextlib
import math
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Protocol, Self

from alexnet_clients import ANONYMOUS, Credentials, Transport
from alexnet_model.errors import AlexnetError, ClientError, UsageError

from .load_results import Outcome, merged
from .loops import LoadRun
from .plans import Part, loops_for_workers
from .waiting import Clock, SystemClock
from .worker_protocol import DONE, STOP, Address, Order, Report, Target

Tick = Callable[[float], None]  # seconds since the load began
_LEAD_S = 0.05  # until an order has reached every process
_TICK_S = 0.25
_LONGEST_END_S = 5.0


def no_tick(_: float) -> None:
    """For whoever shows no progress."""


class Generator(Protocol):
    def aim(self, target: Target) -> None:
        """Prepare to ask this from now on."""

    def run(self, part: Part, tick: Tick = no_tick) -> Outcome:
        """Run a load, which starts now. After Ctrl-C the outcome is what was counted until then."""


class InProcess:
    """One process, this one: for tests, and where a load is small."""

    def __init__(self, transport: Transport, clock: Clock | None = None) -> None:
        self._transport = transport
        self._clock = clock or SystemClock()

    def aim(self, target: Target) -> None:
        self._asking = target.asking(self._transport)
        self._indices = self._asking.indices()

    def run(self, part: Part, tick: Tick = no_tick) -> Outcome:
        starting = replace(part, starts_s=self._clock.now_s())
        return LoadRun(starting, self._asking, self._indices, self._clock).outcome()


class Workers:
    """Processes of their own, there inside the `with` and gone after it, or with this process.

    `access` is sent to them, so its headers are a mapping.
    """

    def __init__(self, url: str, count: int, *, access: Credentials = ANONYMOUS) -> None:
        """Raises:
        UsageError: less than one process.
        """
        if count < 1:
            raise UsageError("workers", got=str(count), expected="at least 1")
        self._address = Address(url=url, access=access)
        self._count = count
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection[Any, Any]] = []

    @property
    def process_ids(self) -> tuple[int, ...]:
        return tuple(process.pid for process in self._processes)

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes: each ends when its connection does."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            try:
                process.wait(_LONGEST_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._connections, self._processes = [], []

    def aim(self, target: Target) -> None:
        if not self._connections:  # an error has ended them
            self._open()
        self._ask(target)

    def run(self, part: Part, tick: Tick = no_tick) -> Outcome:
        """Raises:
        ClientError: a process of the generator died. The next `aim` starts new ones.
        """
        starts_s = time.monotonic() + _LEAD_S
        loops = loops_for_workers(part.loop, self._count)
        busy = range(len(loops))
        for number, loop in enumerate(loops):
            statistics_of = () if number else part.statistics_of
            seed = part.seed + number
            order = replace(part, loop=loop, starts_s=starts_s, seed=seed, statistics_of=statistics_of)
            self._send(number, order)
        reports: dict[int, Report] = {}
        try:
            self._gather(busy, reports, tick=lambda: tick(time.monotonic() - starts_s))
        except KeyboardInterrupt:
            for number in busy:
                self._send(number, STOP)
            self._gather(busy, reports, longest_s=_LONGEST_END_S)
        outcomes = [report for report in reports.values() if isinstance(report, Outcome)]
        if not outcomes:
            raise KeyboardInterrupt
        return merged(outcomes)

    def _open(self) -> None:
        try:
            for _ in range(self._count):
                self._start()
            self._ask(self._address)
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: no module of the current folder takes the place of one that is needed. A session of its own:
            # Ctrl-C is this process's to answer.
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", f"{__package__}.worker", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        self._connections.append(Connection(ours.detach()))

    def _ask(self, order: Order) -> None:
        """Give an order to all and wait until it is done."""
        everyone = range(self._count)
        for number in everyone:
            self._send(number, order)
        reports: dict[int, Report] = {}
        self._gather(everyone, reports)
        assert set(reports.values()) == {DONE}

    def _send(self, number: int, order: Order | str) -> None:
        with contextlib.suppress(ConnectionError):  # a death is found where it should answer
            self._connections[number].send(order)

    def _gather(
        self,
        busy: Collection[int],
        reports: dict[int, Report],
        *,
        tick: Callable[[], None] = lambda: None,
        longest_s: float = math.inf,
    ) -> None:
        """Add one report a process."""
        until_s = time.monotonic() + longest_s
        while (left := [number for number in busy if number not in reports]) and time.monotonic() < until_s:
            tick()
            ready = wait([self._connections[number] for number in left], timeout=_TICK_S)
            for number in left:
                if self._connections[number] in ready:
                    reports[number] = self._received(number)

    def _received(self, number: int) -> Report:
        try:
            report: Report = self._connections[number].recv()
            if isinstance(report, AlexnetError):
                raise report
        except (EOFError, OSError) as error:
            code = self._processes[number].wait()
            self.close()
            raise ClientError(
                f"process {number + 1} of the load generator",
                got=f"its end, exit code {code}",
                expected="an outcome",
                next_step="Measure again.",
            ) from error
        except AlexnetError:
            self.close()  # the others may still have something to say, to which nobody would listen
            raise
        return report
