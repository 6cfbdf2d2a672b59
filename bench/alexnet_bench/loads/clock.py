"""The clock of a load: the time, waiting for a reply or a moment, and how long this process was stalled.

It is the only part of a load that depends on real time, so tests replace it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

from alexnet_clients import InferReply

# Sleeping ends late by about this much, so the rest of a wait is spent in a busy loop. The loop holds
# Python's lock, so a reply's end may be noted late by as much.
_BUSY_WAIT_S = 0.0001
_CHECK_S = 0.01  # between two checks of the stall monitor
# Waking up later than this is a stall. Less is ordinary: a server shares the core, or another thread of this
# process holds Python's lock.
_ORDINARY_DELAY_S = 0.005


@dataclass(frozen=True, slots=True)
class Completion:
    """A request that has ended, with a reply or an error.

    `has_successor` says that the next request of its closed loop has been sent already.
    """

    index: int  # which of the distinct requests
    from_s: float  # when its latency begins
    ended_s: float
    future: Future[InferReply]
    has_successor: bool = False


Completions: TypeAlias = SimpleQueue[Completion | None]  # None wakes up the waiting thread


class Clock:
    """Time as a load sees it. Tests replace it by a clock that events advance."""

    def now_s(self) -> float:
        """Return the monotonic time, which all processes of a machine share."""
        return time.monotonic()

    def cpu_s(self) -> float:
        """Return the processor time of this process, all threads together."""
        return time.process_time()

    @contextmanager
    def monitor_stalls(self) -> Iterator[Callable[[], float]]:
        """Measure how long the system keeps this process from running; yields a function that returns it.

        A thread sleeps briefly, again and again, and adds up how much too late it wakes. An open loop knows
        how late it sent each request. A closed loop has no plan to be late against: if another process, a
        limit on processor time or a stop keeps it from running, it sends less and only looks idle.
        """
        stalled_s = 0.0
        ended = threading.Event()

        def monitor() -> None:
            nonlocal stalled_s
            while not ended.is_set():
                due_s = time.monotonic() + _CHECK_S
                ended.wait(_CHECK_S)
                late_s = time.monotonic() - due_s
                if late_s > _ORDINARY_DELAY_S:
                    stalled_s += late_s

        thread = threading.Thread(target=monitor, name="stall monitor", daemon=True)
        thread.start()
        try:
            yield lambda: stalled_s
        finally:
            ended.set()
            thread.join()

    @contextmanager
    def realtime_priority(self) -> Iterator[None]:
        """Schedule this process inside the `with` as soon as it is due, where the system allows that.

        Without it a server on the same cores delays sends by milliseconds. It needs root or a limit
        (`ulimit -r`); otherwise nothing changes. All threads get the priority, since one that holds Python's
        lock would block the others. Threads started inside inherit it.
        """
        usual, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
        _schedule_all_threads(os.SCHED_FIFO, os.sched_param(1))
        try:
            yield
        finally:
            _schedule_all_threads(usual, parameter)

    def wait(self, completions: Completions, until_s: float, *, nap_s: float = 0.0) -> Completion | None:
        """Wait for the next completion.

        Args:
            completions: The queue that the transport's thread fills.
            until_s: When to return, even if completions are waiting.
            nap_s: How long to sleep first. A completion then waits that long, but waking up costs less
                processor time.

        Returns:
            The completion; None at `until_s` or after a wake-up.
        """
        if nap_s and completions.empty():
            time.sleep(max(0.0, min(nap_s, until_s - time.monotonic() - _BUSY_WAIT_S)))
        sleep_s = until_s - time.monotonic() - _BUSY_WAIT_S
        if sleep_s > 0:
            with suppress(Empty):
                return completions.get(timeout=sleep_s)
        while time.monotonic() < until_s:
            pass
        return None


def _schedule_all_threads(policy: int, parameter: os.sched_param) -> None:
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has ended, or the system does not allow it
            os.sched_setscheduler(int(thread.name), policy, parameter)
