"""A bounded number at a time, in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future

from .steps import Steps, result_of


class Turns:
    """`limit` may have a turn at a time; the others wait on a future. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    def take(self) -> Steps[None]:
        """Wait for a turn."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn: Future[None] = Future()
            self._waiting.append(turn)
        try:
            yield from result_of(turn)
        except GeneratorExit:
            if not turn.cancelled():  # it came in the moment in which nobody wanted it any more
                self.give()
            raise

    def give(self) -> None:
        """Hand the turn to whoever has waited longest."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._free += 1
                    return
                turn = self._waiting.popleft()
            if turn.set_running_or_notify_cancel():
                turn.set_result(None)
                return
