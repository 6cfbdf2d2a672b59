"""Waiting for an answer or a moment, whichever comes first: the one place where a load meets real time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol, TypeAlias

from alexnet_clients import InferReply

from .stall_monitor import StallMonitor

# Sleeping ends about this much late, so the rest is waited for awake. It holds Python's lock for as long, and
# what an answer's thread notes as its end may be late by that.
_AWAKE_S = 0.0001


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished request: which one it was, from when its latency runs and when it was over.

    `is_followed`: the next one of a closed loop has been sent already.
    """

    index: int
    from_s: float
    ended_s: float
    future: Future[InferReply]
    is_followed: bool = False


Answers: TypeAlias = SimpleQueue[Answer | None]  # None wakes up whoever waits


class Watch(Protocol):
    """As much of a `Heartbeat` as a load reads."""

    @property
    def away_s(self) -> float: ...


class Clock(Protocol):
    """Time as a load sees it: fakes move it in tests."""

    def now_s(self) -> float: ...

    def cpu_s(self) -> float:
        """Processor time of this process, all its threads together."""

    def watched(self) -> AbstractContextManager[Watch]:
        """Inside it, what time this process is kept from running is added up."""

    def first_in_line(self) -> AbstractContextManager[None]:
        """Inside it this process runs as soon as its time has come, where the system allows that."""

    def next(self, answers: Answers, until_s: float, *, nap_s: float = 0.0) -> Answer | None:
        """The next answer; None when it is `until_s`, whatever else waits, or when woken up.

        Whoever is in no hurry may nap: an answer then waits so long, and costs nobody's processor time.
        """


class SystemClock:
    """The clock that all processes of a machine share."""

    def now_s(self) -> float:
        return time.monotonic()

    def cpu_s(self) -> float:
        return time.process_time()

    def watched(self) -> AbstractContextManager[Watch]:
        return StallMonitor()

    @contextmanager
    def first_in_line(self) -> Iterator[None]:
        """Real-time scheduling: else a server on the same cores makes sends late by milliseconds.

        It needs root or a limit (`ulimit -r`); without, nothing is changed. All threads have it, or one that
        holds Python's lock would keep the others waiting; so do those that are started inside.
        """
        usual, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
        _schedule_all_threads(os.SCHED_FIFO, os.sched_param(1))
        try:
            yield
        finally:
            _schedule_all_threads(usual, parameter)

    def next(self, answers: Answers, until_s: float, *, nap_s: float = 0.0) -> Answer | None:
        if nap_s and answers.empty():
            time.sleep(max(0.0, min(nap_s, until_s - time.monotonic() - _AWAKE_S)))
        asleep_s = until_s - time.monotonic() - _AWAKE_S
        if asleep_s > 0:
            try:
                return answers.get(timeout=asleep_s)
            except Empty:
                pass
        while time.monotonic() < until_s:
            pass
        return None


def _schedule_all_threads(policy: int, parameter: os.sched_param) -> None:
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended, or that is not allowed
            os.sched_setscheduler(int(thread.name), policy, parameter)
