"""Progress callbacks: the command line draws bars, a library call is silent by default."""

from __future__ import annotations

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
