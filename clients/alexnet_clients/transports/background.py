"""An event loop in a thread of its own: for HTTP's connections, and for the waits before retries."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
Finalizer = Callable[[], Coroutine[Any, Any, None]]
_MAX_CLOSE_S = 5.0


class BackgroundLoop:
    """Runs coroutines and delayed calls; the first of them starts the thread. Thread-safe.

    `finalizer` runs last, after everything else was cancelled.
    """

    def __init__(self, finalizer: Finalizer | None = None) -> None:
        self._finalizer = finalizer
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine; cancelling the future cancels it.

        Raises:
            RuntimeError: the loop is closed.
        """
        import asyncio

        consumed = _consumed(coroutine)
        try:
            with self._lock:  # else the loop could stop in between, and the future would never be done
                return asyncio.run_coroutine_threadsafe(consumed, self._running())
        except RuntimeError:
            consumed.close()  # or Python would warn that they were never awaited
            coroutine.close()
            raise

    def call_later(self, delay_s: float, function: Callable[[], object]) -> None:
        """Call a function, which neither blocks nor raises, after `delay_s` seconds.

        Raises:
            RuntimeError: the loop is closed.
        """
        with self._lock:
            loop = self._running()
            loop.call_soon_threadsafe(lambda: loop.call_later(delay_s, function))

    def close(self) -> None:
        """Cancel coroutines, drop delayed calls and end the thread. Closing twice is allowed."""
        if self._pid != os.getpid():
            return  # a forked child has neither the thread nor the right to close the parent's connections
        with self._lock:
            self._closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join()

    def _running(self) -> asyncio.AbstractEventLoop:
        import asyncio

        if self._closed:
            raise RuntimeError("the client is closed")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_serve, args=(self._loop, self._finalizer), name="alexnet-client", daemon=True
            )
            self._thread.start()
        return self._loop


async def _consumed(coroutine: Coroutine[Any, Any, T]) -> T:
    """Retrieve the error of a coroutine whose future was cancelled, which asyncio would log otherwise."""
    import asyncio

    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return await coroutine


def _serve(loop: asyncio.AbstractEventLoop, finalizer: Finalizer | None) -> None:
    import asyncio

    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(_finish(finalizer))
    finally:
        loop.close()


async def _finish(finalizer: Finalizer | None) -> None:
    import asyncio

    # Every task that started before the loop stopped has run its first step, so it can handle cancellation.
    running = asyncio.all_tasks() - {asyncio.current_task()}
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=_MAX_CLOSE_S)
    if finalizer is not None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(finalizer(), _MAX_CLOSE_S)
