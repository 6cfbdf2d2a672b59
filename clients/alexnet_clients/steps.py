"""How one core serves two clients: its verbs are generators that yield each future they have to wait for.

`blocking` waits in the calling thread, `awaited` (`async_client.py`) in an event loop. When a generator goes
on, the future it yielded is done, and it takes the result, or the error, from there itself.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[Future[Any], None, T]


def result_of(future: Future[T]) -> Steps[T]:
    """Wait for a future; if the waiting is given up, so is the future.

    Raises:
        Exception: the future's own.
    """
    yield from done(future)
    return future.result()


def done(future: Future[Any], *, shared: bool = False) -> Steps[None]:
    """Wait for a future, whatever comes of it. One that is shared is others' too, and is never cancelled."""
    if future.done():
        return
    try:
        yield future
    except GeneratorExit:
        if not shared:
            future.cancel()
        raise


def blocking(steps: Steps[T]) -> T:
    """Run to the end in this thread. An interrupt closes the generator, which cancels what it waited for."""
    try:
        while True:
            future = next(steps)
            with suppress(CancelledError):
                future.exception()  # waits; the generator takes the error from the future itself
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        steps.close()
