"""Asking again where that is safe: nothing was computed, and the reason may pass.

Nobody listened, the server was starting or stopping, or its queue was full. A request that was lost on its
way is not among them: it may be what the server died of. All attempts share one deadline.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from alexnet_model.errors import ClientError, NotReady, Overloaded, Unreachable, UsageError

from .transports.background import BackgroundLoop

RETRIED: tuple[type[ClientError], ...] = (Unreachable, NotReady, Overloaded)
LEAST_S = 0.001  # is left for an attempt that is worth making
T = TypeVar("T")
Attempt = Callable[[float], Future[T]]  # given the seconds that are left


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """The n-th wait is random between nothing and `first_s * 2**n`, at most `longest_s`: "full jitter".

    So many clients that were turned away together do not come back together. Source: Brooker, "Exponential
    backoff and jitter", AWS Architecture Blog, 2015.

    `most_attempts` bounds how often a request is sent; with 1 it is never sent again, as whoever times it
    wants. None: as often as its deadline allows.
    """

    first_s: float = 0.05
    longest_s: float = 2.0
    most_attempts: int | None = None

    def __post_init__(self) -> None:
        if self.most_attempts is not None and self.most_attempts < 1:
            raise UsageError("attempts", got=str(self.most_attempts), expected="at least 1")
        if not 0 < self.first_s <= self.longest_s:
            raise UsageError(
                "backoff", got=f"{self.first_s:g} to {self.longest_s:g} s", expected="0 < first <= longest"
            )

    def wait_s(self, failures: int) -> float:
        """The wait after so many failures, at least one."""
        most_s = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 32))
        return random.uniform(0, most_s)  # noqa: S311 (spreads load; guards nothing)


class Retrier:
    """Runs attempts until one succeeds, fails for good, or the deadline passes.

    Once nobody could be reached for a whole deadline, the next requests try once, until somebody answers: ten
    thousand images do not wait ten thousand deadlines for a server that is gone. Only `patient` ones wait.
    """

    def __init__(self, backoff: Backoff, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.backoff = backoff
        self.clock = clock
        self.loop = BackgroundLoop()
        self.given_up = False
        self.waiting: set[_Attempts[Any]] = set()

    def run(self, attempt: Attempt[T], *, timeout_s: float, patient: bool = False) -> Future[T]:
        """The future of the last attempt's outcome; cancelling it cancels the attempt under way."""
        return _Attempts(attempt, self, timeout_s, patient).outcome

    def close(self) -> None:
        """Nothing is tried again: what waits for its next attempt fails with the reason of its last."""
        self.loop.close()
        for attempts in list(self.waiting):
            attempts.end()


class _Attempts(Generic[T]):
    def __init__(self, attempt: Attempt[T], retrier: Retrier, timeout_s: float, patient: bool) -> None:
        self._attempt = attempt
        self._retrier = retrier
        self._patient = patient
        self._deadline = retrier.clock() + timeout_s
        self._failures = 0
        self.outcome: Future[T] = Future()
        self._try(timeout_s)
        self.outcome.add_done_callback(self._cancel_attempt)

    def end(self) -> None:
        """There will be no next attempt."""
        self._settle(self._running.exception())

    def _try(self, left_s: float) -> None:
        self._retrier.waiting.discard(self)
        if self.outcome.done():
            return
        try:
            self._running = self._attempt(left_s)
        except Exception as error:  # the caller's own function for headers, say
            self._running = Future()
            self._running.set_exception(error)
        self._running.add_done_callback(self._take)
        if self.outcome.cancelled():  # while the attempt began
            self._running.cancel()

    def _take(self, attempt: Future[T]) -> None:
        if attempt.cancelled():
            self.outcome.cancel()
            return
        error = attempt.exception()
        if not isinstance(error, Unreachable):
            self._retrier.given_up = False
        if isinstance(error, RETRIED) and self._tries_again(error):
            return
        if isinstance(error, Unreachable) and not self._patient:
            self._retrier.given_up = True
        self._settle(error)

    def _settle(self, error: BaseException | None) -> None:
        if self.outcome.done() or not self.outcome.set_running_or_notify_cancel():
            return
        if error is None:
            self.outcome.set_result(self._running.result())
        else:
            self.outcome.set_exception(error)

    def _tries_again(self, error: ClientError) -> bool:
        """Arrange the next attempt, if there is time for one."""
        self._failures += 1
        left_s = self._deadline - self._retrier.clock()
        hopeless = isinstance(error, Unreachable) and self._retrier.given_up and not self._patient
        was_last = self._failures == self._retrier.backoff.most_attempts
        if left_s < LEAST_S or hopeless or was_last or self.outcome.cancelled():
            return False
        wait_s = min(self._retrier.backoff.wait_s(self._failures), left_s / 2)
        self._retrier.waiting.add(self)
        try:
            self._retrier.loop.call_later(wait_s, lambda: self._try(left_s - wait_s))
        except Exception:  # the client was closed, or there is no room for another thread or socket
            self._retrier.waiting.discard(self)
            return False
        return True

    def _cancel_attempt(self, outcome: Future[T]) -> None:
        if outcome.cancelled():
            self._running.cancel()
