"""Hold back Ctrl-C and other signals while the code that they would interrupt must run to its end.

The handler of a signal may raise an exception, such as KeyboardInterrupt, between any two lines of the main
thread. In a `finally` it leaves the rest undone, and in `shutil.rmtree` it may turn into an OSError.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """The signals that arrive during a `with deferred_interrupts()`."""

    def __init__(self) -> None:
        self._came: list[int] = []
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}

    @property
    def came(self) -> bool:
        """Whether a signal arrived, which is delivered later."""
        return bool(self._came)

    def allowed(self) -> _Allowed:
        """Return a context manager that delivers signals, and first one that arrived before it."""
        return _Allowed(self)

    def defer(self) -> None:
        """Hold back signals from now on."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread gets signals
        for number in SIGNALS:
            handler = signal.getsignal(number)
            # Other handlers raise nothing. The last one stays if delivering was interrupted.
            if callable(handler) and handler != self._note:
                self._before[number] = handler
                signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._came.append(number)

    def deliver(self) -> None:
        """Restore the handlers, and deliver the first signal that was held back."""
        while self._before:
            number, handler = self._before.popitem()  # Ctrl-C last, because its handler may raise here
            signal.signal(number, handler)
        if self._came:
            number, self._came = self._came[0], []
            signal.raise_signal(number)


class _Allowed:
    """Not a generator: one that a signal left unfinished would hold back signals when it is collected."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts

    def __enter__(self) -> None:
        try:
            self._interrupts.deliver()
        except BaseException:
            self._interrupts.defer()
            raise

    def __exit__(self, *_: object) -> None:
        self._interrupts.defer()


@contextmanager
def deferred_interrupts() -> Iterator[Interrupts]:
    """Hold back Ctrl-C, SIGTERM and SIGHUP, and deliver the first of them at the end of the block.

    Signals without a handler in Python are not held back. Outside of the main thread nothing is done, because
    Python delivers no signal there.

    >>> with deferred_interrupts() as interrupts:  # doctest: +SKIP
    ...     create()
    ...     try:
    ...         with interrupts.allowed():
    ...             use()
    ...     finally:
    ...         remove()
    """
    interrupts = Interrupts()
    try:
        interrupts.defer()
        yield interrupts
    finally:
        interrupts.deliver()
