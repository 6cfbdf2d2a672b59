"""Does the system let this process run? A thread that naps briefly, and adds up how much too late it wakes.

An open loop notes how late each request was sent. A closed loop has no plan to be late against: kept from
running, by another load, a limit on its processor time or a stop, it sends less and looks idle.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

BEAT_S = 0.01
# Waking takes its turn behind what else runs on a core, which is no news: a server shares it, or a thread of
# this process holds Python's lock.
GRACE_S = 0.005


class StallMonitor:
    """Inside the `with` `away_s` grows by what this process was kept from running."""

    def __init__(self) -> None:
        self.away_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.is_set():
            due_s = time.monotonic() + BEAT_S
            self._ended.wait(BEAT_S)
            late_s = time.monotonic() - due_s
            if late_s > GRACE_S:
                self.away_s += late_s
