"""Print results to standard output, and progress and notes to standard error."""

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
from rich.table import Column

from alexnet_model.progress import Progress as Reports

out = Console(soft_wrap=False, highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)


def say(text: str) -> None:
    """Print a line of results unchanged: paths are not wrapped, class names are not read as markup."""
    out.print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a line for the user to standard error."""
    err.print(text, markup=False, soft_wrap=True)


def escaped(text: str) -> str:
    """Escape characters that would move the cursor, change colours or cannot be printed.

    For text that comes from outside, such as file and class names.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1]  # as Python writes it
        for letter in text
    )


class Bars:
    """Draw one progress bar per stage; an instance is a `Progress` callback.

    A bar appears with the first report of its stage and remains on the screen when the stage is done.
    """

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            # Wrapped in a narrow terminal, so that the other columns keep their width.
            TextColumn("{task.fields[note]}", table_column=Column()),
            console=err,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        self._bars.start()  # only now: without reports nothing is drawn
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, note=note)
        self._bars.update(self._tasks[stage], completed=done, total=total, note=note)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop redrawing; later output is printed below the bars."""
        if self._tasks:
            self._bars.stop()


class Rate:
    """Show a count with its total and rate on standard error.

    Nothing is shown if `hidden` (results are printed to the same terminal) or in the first second.
    """

    _FIRST_SHOWN_S = 1.0

    def __init__(self, stage: str, total: int, *, hidden: bool) -> None:
        self._hidden = hidden
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=err,
            redirect_stdout=False,  # results may be redirected to a file
        )
        self._task = self._bars.add_task(stage, total=total, rate="")
        self._started_s = time.monotonic()
        self._done = 0
        self._is_shown = False

    def advance(self) -> None:
        """Count one more."""
        self._done += 1
        seconds = time.monotonic() - self._started_s
        if not self._hidden and not self._is_shown and seconds > self._FIRST_SHOWN_S:
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
    """Wrap a progress callback so that byte counts are shown in megabytes."""

    def reported(stage: str, done: int, total: int, note: str = "") -> None:
        reports(f"{stage}, MB", done // 10**6, total // 10**6, note)

    return reported
