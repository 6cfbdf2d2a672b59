"""Progress callbacks: the command line draws bars, a library call is silent by default."""

from __future__ import annotations

import time
from typing import Protocol


class Progress(Protocol):
    """A callback that reports progress; it is called often."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` units of `stage` are finished.

        Args:
            stage: a name to show, such as "training epoch 1/4".
            done: finished units.
            total: all units of the stage.
            note: a short text to show, such as the loss.
        """
        ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Report nothing: the default `Progress`."""


def when_slow(progress: Progress, *, after_s: float = 1.0) -> Progress:
    """Return a callback that reports nothing in the first second, for work that is usually short.

    Args:
        progress: the callback to call later.
        after_s: seconds from now on without reports.
    """
    started_s = time.monotonic()

    def reported(stage: str, done: int, total: int, note: str = "") -> None:
        if time.monotonic() - started_s > after_s:
            progress(stage, done, total, note)

    return reported
