"""How a long piece of work says how far it is: the command line draws bars, a library call is silent."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called often: `done` of `total` units of `stage`, with a short note such as a loss."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""
