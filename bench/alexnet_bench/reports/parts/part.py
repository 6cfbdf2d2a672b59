"""What a part of a report consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...figures.verdicts import Verdict
from ...schema import EngineRow, LoadRow, Report
from ..comparison_rows import ComparisonRow
from ..names import in_short
from ..plots import Plot
from ..table_models import Table, interval_in_words

Row = TypeVar("Row")
Measured = TypeVar("Measured", EngineRow, LoadRow)


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


def best_throughput(rows: Sequence[Measured]) -> tuple[Measured, str, str]:
    """Return the row with the highest throughput, that figure in words, and its interval for a sentence."""
    best = max(rows, key=lambda row: row.throughput.value)
    interval = interval_in_words(best.throughput)
    return best, f"{in_short(best.throughput.value)} images/s", f"{interval}; " if interval else ""


def on_other_device(device: str) -> str:
    """Return the device as it is added to a highlight's name: nothing for the CPU."""
    return "" if device == "CPU" else f", {device}"
