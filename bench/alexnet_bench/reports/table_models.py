"""Tables as plain cells, which the terminal, Markdown and HTML all draw.

The terminal shows only the `brief` columns. Markdown leaves out `detail` columns unless a cell of them is
bad. The HTML page shows all columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from ..figures.intervals import Figure
from ..figures.percentiles import NEEDED, Latencies
from ..figures.verdicts import Verdict
from .names import in_short

Kind = Literal["plain", "refused", "bad", "good"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Column:
    """A column. `unit` is shown below its name; `left` aligns it to the left."""

    name: str
    unit: str = ""
    brief: bool = False
    left: bool = False
    detail: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell. `small` qualifies its text: an interval, or the number of samples that is needed."""

    text: str
    small: str = ""
    kind: Kind = "plain"


@dataclass(frozen=True)
class TableRow:
    """The cells of one row, and notes that are shown below the table."""

    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Rows of one thing, such as an engine."""

    name: str
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class Table:
    """A title, columns, and rows in groups."""

    title: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]


def grouped(
    items: Iterable[Item], name: Callable[[Item], str], row: Callable[[Item], TableRow]
) -> tuple[Group, ...]:
    """Put the rows of all items with the same name into one group, in the order of the items."""
    found: dict[str, list[TableRow]] = {}
    for item in items:
        found.setdefault(name(item), []).append(row(item))
    return tuple(Group(group, tuple(rows)) for group, rows in found.items())


def figure_cell(figure: Figure) -> Cell:
    """Return the figure with its 95% interval, if it has one."""
    if figure.low is None or figure.high is None:
        repeats = len(figure.repeats)
        return Cell(in_short(figure.value), "1 repeat" if repeats == 1 else "no interval")
    return Cell(in_short(figure.value), f"{in_short(figure.low)} to {in_short(figure.high)}")


def number_cell(value: float | None) -> Cell:
    """Return three significant digits, or a dash for None."""
    return Cell("-" if value is None else in_short(value))


def latency_columns(*, of_calls: bool = False) -> tuple[Column, ...]:
    """Return a column for each of `latency_cells`. In-process runs have few calls: p90 is a detail there."""
    return (
        Column("p50", "ms", brief=True),
        Column("p90", "ms", detail=of_calls),
        Column("p95", "ms", detail=True),
        Column("p99", "ms", brief=True),
        Column("p99.9", "ms", detail=True),
        Column("mean", "ms", detail=True),
        Column("max", "ms", detail=True),
        Column("samples", detail=True),
    )


def latency_cells(latencies: Latencies) -> tuple[Cell, ...]:
    """Return a cell for each of `latency_columns`; an unknown percentile says how many samples it needs."""
    percentiles = zip(
        NEEDED.values(),
        (latencies.p50_ms, latencies.p90_ms, latencies.p95_ms, latencies.p99_ms, latencies.p99_9_ms),
        strict=True,
    )
    return (
        *(
            Cell(f"needs {needed:,}", "samples", "refused") if value is None else Cell(in_short(value))
            for needed, value in percentiles
        ),
        Cell(in_short(latencies.mean_ms)),
        Cell(in_short(latencies.max_ms)),
        Cell(f"{latencies.samples:,}"),
    )


def verdict_cell(verdict: Verdict, run: Verdict) -> Cell:
    """Return VALID or INVALID; a valid row of an INVALID run says so."""
    if verdict.is_valid and not run.is_valid:
        return Cell(verdict.word, "run INVALID")
    return Cell(verdict.word, kind="good" if verdict.is_valid else "bad")
