"""Where commands print: results on standard output, progress on standard error."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from alexnet_model.progress import Progress as Reports

out = Console(soft_wrap=False, highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)


def say(text: str) -> None:
    """A line of result as it is: no wrapping inside a path, no markup read into a class name."""
    out.print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """A line to the person at the terminal, on standard error."""
    err.print(text, markup=False, soft_wrap=True)


def harmless(text: str) -> str:
    """For what others have named: nothing in it moves the cursor, colours the screen or cannot be encoded."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1]  # as Python writes it
        for letter in text
    )


class Bars:
    """Draws one bar a stage; the library calls it as its `Progress`.

    A stage is drawn from its first report on and stays on the screen when it is done.
    """

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=err,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        self._bars.start()  # not before there is something to draw
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, note=note)
        self._bars.update(self._tasks[stage], completed=done, total=total, note=note)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the bars as they are; what is printed after stands below them."""
        if self._tasks:
            self._bars.stop()


class Rate:
    """How many of how many, and how many a second, on standard error.

    Not where the results themselves scroll by on a terminal (`hidden`), nor for what is done at once.
    """

    _AT_ONCE_S = 1.0

    def __init__(self, stage: str, total: int, *, hidden: bool) -> None:
        self._hidden = hidden
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=err,
            redirect_stdout=False,  # results go where they were sent
        )
        self._task = self._bars.add_task(stage, total=total, rate="")
        self._started_s = time.monotonic()
        self._done = 0
        self._is_shown = False

    def advance(self) -> None:
        """One more."""
        self._done += 1
        seconds = time.monotonic() - self._started_s
        if not self._hidden and not self._is_shown and seconds > self._AT_ONCE_S:
            self._is_shown = True
            self._bars.start()
        if self._is_shown:
            self._bars.update(self._task, completed=self._done, rate=f"{self._done / seconds:,.0f}/s")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            self._bars.stop()


def in_megabytes(reports: Reports) -> Reports:
    """For work that counts bytes, of which nobody wants to read nine digits."""

    def reported(stage: str, done: int, total: int, note: str = "") -> None:
        reports(f"{stage}, MB", done // 10**6, total // 10**6, note)

    return reported
