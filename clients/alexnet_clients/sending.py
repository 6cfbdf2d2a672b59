"""How requests are sent: waiting for futures, a limit on open requests, a window of them, and retries.

A transport returns a `concurrent.futures.Future` for each request. The rules of both clients are coroutines
that wait for such futures and for nothing else (`result_of`), so they need no event loop. `run_blocking` runs
a coroutine in the calling thread and blocks on each future; `AsyncClient` awaits the same futures in the
caller's event loop.
"""

from __future__ import annotations

import random
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from alexnet_model.errors import ClientError, NotReady, Overloaded, Unreachable, UsageError

from .transports.background import BackgroundLoop

if TYPE_CHECKING:
    from .images import Batch, Batches
    from .transports.transport import InferReply

    SentBatch: TypeAlias = tuple[Batch, Future[InferReply] | None]  # None: no image could be read

T = TypeVar("T")
Steps: TypeAlias = Coroutine[Any, None, T]  # yields each future that it waits for

RETRIED: tuple[type[ClientError], ...] = (Unreachable, NotReady, Overloaded)
MIN_ATTEMPT_S = 0.001  # no attempt is made with less time left


def run_blocking(coroutine: Steps[T]) -> T:
    """Run a coroutine in this thread. An interrupt closes it, which cancels the future that it waits for."""
    try:
        while True:
            future: Future[Any] = coroutine.send(None)
            if not future.done():
                _block_until_done(future)  # the coroutine takes the result or the error itself
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        coroutine.close()


def _block_until_done(future: Future[Any]) -> None:
    """As `future.result()`, whose Condition may raise a RuntimeError if an interrupt comes while it waits."""
    lock = threading.Lock()
    lock.acquire()
    future.add_done_callback(lambda _: lock.release())
    lock.acquire()


async def wait_for(future: Future[Any], *, shared: bool = False) -> None:
    """Wait until a future is done. If the waiting is cancelled, cancel the future, unless it is `shared`."""
    if future.done():
        return
    try:
        await _yielded(future)
    except GeneratorExit:  # the coroutine is being closed
        if not shared:
            future.cancel()
        raise


async def result_of(future: Future[T]) -> T:
    """Wait for a future and return its result, or raise its exception."""
    await wait_for(future)
    return future.result()


@types.coroutine
def _yielded(future: Future[Any]) -> Generator[Future[Any], None, None]:
    yield future


def run_detached(coroutine: Steps[T]) -> Future[T]:
    """Run a coroutine in the threads that complete the futures it waits for.

    Cancelling the returned future cancels the one that the coroutine waits for, and closes the coroutine.
    """
    return _Detached(coroutine).outcome


class _Detached(Generic[T]):
    """A coroutine of `run_detached`. It waits for one future at a time, so one thread at a time runs it."""

    def __init__(self, coroutine: Steps[T]) -> None:
        self._coroutine = coroutine
        self._awaited: Future[Any] | None = None
        self.outcome: Future[T] = Future()
        self.outcome.add_done_callback(self._cancel)
        self._step()

    def _step(self, _: Future[Any] | None = None) -> None:
        try:
            if self.outcome.cancelled():
                self._coroutine.close()
                return
            awaited: Future[Any] = self._coroutine.send(None)
        except StopIteration as end:
            if self.outcome.set_running_or_notify_cancel():
                self.outcome.set_result(end.value)
        except Exception as error:
            if self.outcome.set_running_or_notify_cancel():
                self.outcome.set_exception(error)
        else:
            self._awaited = awaited
            if self.outcome.cancelled():  # between the start of this step and the line above
                awaited.cancel()
            awaited.add_done_callback(self._step)

    def _cancel(self, outcome: Future[T]) -> None:
        if outcome.cancelled() and self._awaited is not None:
            self._awaited.cancel()


def copy_of(future: Future[T]) -> Future[T]:
    """A future with the outcome of another one, which may be cancelled alone."""
    copy: Future[T] = Future()

    def finish(done: Future[T]) -> None:
        if copy.set_running_or_notify_cancel():
            error = CancelledError() if done.cancelled() else done.exception()
            if error is None:
                copy.set_result(done.result())
            else:
                copy.set_exception(error)

    future.add_done_callback(finish)
    return copy


class FifoSemaphore:
    """At most `limit` holders at once; waiting coroutines are served in order of arrival. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    async def acquire(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            permit: Future[None] = Future()
            self._waiting.append(permit)
        try:
            await result_of(permit)
        except GeneratorExit:
            if not permit.cancelled():  # it was granted just as the waiting was cancelled
                self.release()
            raise

    def release(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._free += 1
                    return
                permit = self._waiting.popleft()
            if permit.set_running_or_notify_cancel():
                permit.set_result(None)
                return


class RequestWindow:
    """Send batches, at most `limit` ahead of the reply that is waited for, and return replies in order."""

    def __init__(
        self, batches: Batches, send: Callable[[Batch], Steps[Future[InferReply]]], *, limit: int
    ) -> None:
        self._batches = batches
        self._send = send
        self._limit = limit
        self._sent: deque[SentBatch] = deque()
        self._exhausted = False

    async def next(self) -> SentBatch | None:
        """The oldest batch with its finished request; None after the last."""
        while not self._exhausted and len(self._sent) < self._limit:
            if self._sent and ((first := self._sent[0][1]) is None or first.done()):
                break  # return it before waiting for more images
            batch = await self._batches.next()
            if batch is None:
                self._exhausted = True
                break
            self._sent.append((batch, None if batch.rows is None else await self._send(batch)))
        if not self._sent:
            return None
        future = self._sent[0][1]
        if future is not None:
            await wait_for(future)
        return self._sent.popleft()

    def close(self) -> None:
        """Cancel the open requests and stop preparing images."""
        self._batches.close()
        for _, future in self._sent:
            if future is not None:
                future.cancel()


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long to wait before sending a request again: "full jitter".

    The n-th wait is random between 0 and `first_s * 2**(n - 1)` seconds, at most `longest_s`, so that many
    clients that failed together do not return together. Source: Brooker, "Exponential backoff and jitter",
    AWS Architecture Blog, 2015.

    Args:
        first_s: upper limit of the first wait, seconds.
        longest_s: upper limit of every wait, seconds.
        max_attempts: how often a request is sent at most; 1 never retries. None: until its deadline.

    Raises:
        UsageError: a limit is not positive, or the first exceeds the longest.
    """

    first_s: float = 0.05
    longest_s: float = 2.0
    max_attempts: int | None = None

    def __post_init__(self) -> None:
        if self.max_attempts is not None and self.max_attempts < 1:
            raise UsageError("max_attempts", got=str(self.max_attempts), expected="at least 1")
        if not 0 < self.first_s <= self.longest_s:
            raise UsageError(
                "backoff", got=f"{self.first_s:g} to {self.longest_s:g} s", expected="0 < first <= longest"
            )

    def wait_s(self, failures: int) -> float:
        """A random wait in seconds after this many failures, at least one."""
        limit_s = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 32))
        return random.uniform(0, limit_s)  # noqa: S311 (spreads load; guards nothing)


Attempt: TypeAlias = Callable[[float], Future[T]]  # takes the seconds that are left


class Retrier:
    """Repeat an attempt until it succeeds, fails for good, or its deadline passes.

    Only failures in `RETRIED` are repeated: nothing was computed, and the reason may pass. A request that was
    lost on its way is not repeated, because it may have crashed the server.

    After a whole deadline without reaching the server, later requests try once each until one reaches it.
    Otherwise ten thousand images would wait ten thousand deadlines. A `patient` attempt always waits.
    """

    def __init__(self, backoff: Backoff) -> None:
        self.backoff = backoff
        self.loop = BackgroundLoop()
        self.is_unreachable = False
        self.waiting: set[_Attempts[Any]] = set()

    def run(self, attempt: Attempt[T], *, timeout_s: float, patient: bool = False) -> Future[T]:
        """A future of the last attempt's outcome. Cancelling it cancels the current attempt.

        Args:
            attempt: starts one attempt and returns its future; it is given the seconds that are left.
            timeout_s: for all attempts together.
            patient: keep trying a server that other requests could not reach.
        """
        return _Attempts(attempt, self, timeout_s, patient).outcome

    def close(self) -> None:
        """Stop retrying: each waiting request fails with its last error."""
        self.loop.close()
        for attempts in list(self.waiting):
            attempts.end()


class _Attempts(Generic[T]):
    """The attempts at one request."""

    def __init__(self, attempt: Attempt[T], retrier: Retrier, timeout_s: float, patient: bool) -> None:
        self._attempt = attempt
        self._retrier = retrier
        self._patient = patient
        self._deadline = time.monotonic() + timeout_s
        self._failures = 0
        self.outcome: Future[T] = Future()
        self._start(timeout_s)
        self.outcome.add_done_callback(self._cancel_attempt)

    def end(self) -> None:
        """Fail with the last attempt's error."""
        self._settle(self._running.exception())

    def _start(self, left_s: float) -> None:
        self._retrier.waiting.discard(self)
        if self.outcome.done():
            return
        try:
            self._running = self._attempt(left_s)
        except Exception as error:  # for instance from the caller's function for headers
            self._running = Future()
            self._running.set_exception(error)
        self._running.add_done_callback(self._finish)
        if self.outcome.cancelled():  # while the attempt was started
            self._running.cancel()

    def _finish(self, attempt: Future[T]) -> None:
        if attempt.cancelled():
            self.outcome.cancel()
            return
        error = attempt.exception()
        if not isinstance(error, Unreachable):
            self._retrier.is_unreachable = False
        if isinstance(error, RETRIED) and self._retries(error):
            return
        if isinstance(error, Unreachable) and not self._patient:
            self._retrier.is_unreachable = True
        self._settle(error)

    def _settle(self, error: BaseException | None) -> None:
        if self.outcome.done() or not self.outcome.set_running_or_notify_cancel():
            return
        if error is None:
            self.outcome.set_result(self._running.result())
        else:
            self.outcome.set_exception(error)

    def _retries(self, error: ClientError) -> bool:
        """Schedule the next attempt, if there is time for one."""
        self._failures += 1
        left_s = self._deadline - time.monotonic()
        hopeless = isinstance(error, Unreachable) and self._retrier.is_unreachable and not self._patient
        was_last = self._failures == self._retrier.backoff.max_attempts
        if left_s < MIN_ATTEMPT_S or hopeless or was_last or self.outcome.cancelled():
            return False
        wait_s = min(self._retrier.backoff.wait_s(self._failures), left_s / 2)
        self._retrier.waiting.add(self)
        try:
            self._retrier.loop.call_later(wait_s, lambda: self._start(left_s - wait_s))
        except Exception:  # the client was closed, or the process is out of threads or sockets
            self._retrier.waiting.discard(self)
            return False
        return True

    def _cancel_attempt(self, outcome: Future[T]) -> None:
        if outcome.cancelled():
            self._running.cancel()
