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
from typing import Generic, TypeVar

from alexnet_model.errors import ClientError, NotReady, Overloaded, Unreachable, UsageError

from .transports.background import BackgroundLoop

RETRIED: tuple[type[ClientError], ...] = (Unreachable, NotReady, Overloaded)
T = TypeVar("T")
Attempt = Callable[[float], Future[T]]  # given the seconds that are left


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """The n-th wait is random between nothing and `first_s * 2**n`, at most `longest_s`: "full jitter".

    So many clients that were turned away together do not come back together. Source: Brooker, "Exponential
    backoff and jitter", AWS Architecture Blog, 2015.
    """

    first_s: float = 0.05
    longest_s: float = 2.0

    def __post_init__(self) -> None:
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

    Once nobody could be reached for a whole deadline, the next requests try once, until one gets through: ten
    thousand pictures do not wait ten thousand deadlines for a server that is gone.
    """

    def __init__(self, backoff: Backoff, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.backoff = backoff
        self.clock = clock
        self.loop = BackgroundLoop()
        self.given_up = False

    def run(self, attempt: Attempt[T], *, timeout_s: float) -> Future[T]:
        """The future of the last attempt's outcome; cancelling it cancels the attempt under way."""
        return _Attempts(attempt, self, timeout_s).outcome

    def close(self) -> None:
        """Nothing is tried again."""
        self.loop.close()


class _Attempts(Generic[T]):
    def __init__(self, attempt: Attempt[T], retrier: Retrier, timeout_s: float) -> None:
        self._attempt = attempt
        self._retrier = retrier
        self._deadline = retrier.clock() + timeout_s
        self._failures = 0
        self.outcome: Future[T] = Future()
        self._try(timeout_s)
        self.outcome.add_done_callback(self._cancel_attempt)

    def _try(self, left_s: float) -> None:
        if self.outcome.cancelled():
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
        if isinstance(error, RETRIED) and self._tries_again(error):
            return
        if error is None:
            self._retrier.given_up = False
        elif isinstance(error, Unreachable):
            self._retrier.given_up = True
        if not self.outcome.set_running_or_notify_cancel():
            return
        if error is None:
            self.outcome.set_result(attempt.result())
        else:
            self.outcome.set_exception(error)

    def _tries_again(self, error: ClientError) -> bool:
        """Arrange the next attempt, if there is time for one."""
        self._failures += 1
        wait_s = self._retrier.backoff.wait_s(self._failures)
        left_s = self._deadline - self._retrier.clock() - wait_s
        if left_s <= 0 or self._retrier.given_up or self.outcome.cancelled():
            return False
        try:
            self._retrier.loop.call_later(wait_s, lambda: self._try(left_s))
        except RuntimeError:  # the client was closed
            return False
        return True

    def _cancel_attempt(self, outcome: Future[T]) -> None:
        if outcome.cancelled():
            self._running.cancel()
