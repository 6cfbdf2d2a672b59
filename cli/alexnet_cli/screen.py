"""Where commands print: results on standard output, progress on standard error."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from alexnet_model.progress import Progress as Reports

out = Console(soft_wrap=False, highlight=False)
err = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """A line of result as it is: no wrapping inside a path, no markup read into a class name."""
    out.print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """A line to the person at the terminal, on standard error."""
    err.print(text, markup=False, soft_wrap=True)


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


def in_megabytes(reports: Reports) -> Reports:
    """For work that counts bytes, of which nobody wants to read nine digits."""

    def reported(stage: str, done: int, total: int, note: str = "") -> None:
        reports(f"{stage}, MB", done // 10**6, total // 10**6, note)

    return reported
