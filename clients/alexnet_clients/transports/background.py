"""An event loop on a thread of its own: for HTTP's connections, and for waiting before a retry."""

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
Ending = Callable[[], Coroutine[Any, Any, None]]
_LONGEST_ENDING_S = 5.0


class BackgroundLoop:
    """Runs coroutines and delayed calls; the thread starts with the first of them. Thread-safe.

    `ending` is run last of all, once everything else was cancelled.
    """

    def __init__(self, ending: Ending | None = None) -> None:
        self._ending = ending
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._process = os.getpid()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine; cancelling the future cancels it.

        Raises:
            RuntimeError: the loop is closed.
        """
        import asyncio

        heard = _heard(coroutine)
        try:
            with self._lock:  # or the loop could stop in between, and the future would never be done
                return asyncio.run_coroutine_threadsafe(heard, self._running())
        except RuntimeError:
            heard.close()  # or Python would warn that they were never awaited
            coroutine.close()
            raise

    def call_later(self, delay_s: float, function: Callable[[], object]) -> None:
        """Call a function that neither blocks nor raises, after a while.

        Raises:
            RuntimeError: the loop is closed.
        """
        with self._lock:
            loop = self._running()
            loop.call_soon_threadsafe(lambda: loop.call_later(delay_s, function))

    def close(self) -> None:
        """Cancel what runs, forget what was to be called, and end the thread. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join()

    def _running(self) -> asyncio.AbstractEventLoop:
        import asyncio

        if self._closed or self._process != os.getpid():  # a fork has no threads: nothing would ever be done
            raise RuntimeError("the client is closed, or was made before a fork")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_serve, args=(self._loop, self._ending), name="alexnet-client", daemon=True
            )
            self._thread.start()
        return self._loop


async def _heard(coroutine: Coroutine[Any, Any, T]) -> T:
    """asyncio would log an error that nobody asked for, because its future had been cancelled."""
    import asyncio

    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return await coroutine


def _serve(loop: asyncio.AbstractEventLoop, ending: Ending | None) -> None:
    import asyncio

    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(_end(ending))
    finally:
        loop.close()


async def _end(ending: Ending | None) -> None:
    import asyncio

    # What was started before the loop stopped has taken its first step by now: it can catch its cancelling.
    running = asyncio.all_tasks() - {asyncio.current_task()}
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=_LONGEST_ENDING_S)
    if ending is not None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ending(), _LONGEST_ENDING_S)
