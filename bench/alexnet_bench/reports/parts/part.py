"""What a part of a report consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...figures.intervals import Figure
from ...figures.verdicts import Verdict
from ...schema import Report
from ..comparison_rows import ComparisonRow
from ..names import in_short
from ..plots import Plot
from ..table_models import Table

Row = TypeVar("Row")


@dataclass(frozen=True)
class Highlight:
    """One of a machine's main figures; `of` says what it is a figure of."""

    name: str
    figure: str
    of: str


def _none(_: object) -> tuple[()]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Part(Generic[Row]):
    """One part of a report. Its functions get rows of one report and one device, or the whole report."""

    name: str  # the field of `Report` that holds its rows
    title: str
    table: Callable[[Sequence[Row], Verdict], Table]  # the rows, and the verdict on their run
    plots: Callable[[Sequence[Row]], Iterable[Plot]] = _none
    sentences: Callable[[Sequence[Row]], Iterable[str]] = _none  # shown with the table
    highlights: Callable[[Sequence[Row]], Iterable[Highlight]] = _none  # of valid rows of one device
    comparison_rows: Callable[[Report], Iterable[ComparisonRow]] = _none
    row_name: Callable[[Row], str] | None = None  # if set, a page may hold a row of one name only once

    def rows(self, report: Report) -> tuple[Row, ...]:
        """Return the rows that the report has of this part."""
        value = getattr(report, self.name)
        if value is None:
            return ()
        return value if isinstance(value, tuple) else (value,)


def interval_in_words(figure: Figure) -> str:
    """Return such as `118 to 122; `, for the start of a highlight's explanation; empty if there is none."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{in_short(figure.low)} to {in_short(figure.high)}; "


def on_other_device(device: str) -> str:
    """Return the device as it is added to a highlight's name: nothing for the CPU."""
    return "" if device == "CPU" else f", {device}"
