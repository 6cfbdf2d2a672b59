"""Tables as plain cells, which the terminal, Markdown and HTML all draw.

The terminal shows only the `brief` columns. Markdown leaves out `detail` columns unless a cell of them is
bad. The HTML page shows all columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from ..figures.intervals import Figure
from ..figures.percentiles import NEEDED, Latencies
from ..figures.verdicts import Verdict
from .names import in_short

Kind = Literal["plain", "refused", "bad", "good"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Cell:
    """A cell. `small` qualifies its text: an interval, or the number of samples that is needed."""

    text: str
    small: str = ""
    kind: Kind = "plain"


@dataclass(frozen=True)
class Column(Generic[Item]):
    """A column and its cell of an item. `unit` is shown below its name; `left` aligns it to the left.

    A cell may be given as its text, or as a number (None is a dash).
    """

    name: str
    cell: Callable[[Item], Cell | str | float | None]
    unit: str = ""
    brief: bool = False
    left: bool = False
    detail: bool = False


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
    columns: Sequence[Column[Any]]
    groups: tuple[Group, ...]


def table_from_items(
    title: str,
    columns: Sequence[Column[Item]],
    items: Iterable[tuple[str, Sequence[Item]]],
    notes: Callable[[Item], Iterable[object]] = lambda _: (),
) -> Table:
    """Return a table with a row for each item.

    Args:
        title: The title.
        columns: The columns.
        items: Names of groups and their items; groups of the same name are joined.
        notes: Returns what is shown below the table about an item.
    """
    groups: dict[str, list[TableRow]] = {}
    for name, of_group in items:
        groups.setdefault(name, []).extend(
            TableRow(tuple(_cell(column.cell(item)) for column in columns), tuple(map(str, notes(item))))
            for item in of_group
        )
    return Table(title, columns, tuple(Group(name, tuple(rows)) for name, rows in groups.items()))


def _cell(value: Cell | str | float | None) -> Cell:
    if isinstance(value, Cell | str):
        return Cell(value) if isinstance(value, str) else value
    return Cell("-" if value is None else in_short(value))


def figure_cell(figure: Figure) -> Cell:
    """Return the figure with its 95% interval, if it has one."""
    interval = interval_in_words(figure) or ("1 repeat" if len(figure.repeats) == 1 else "no interval")
    return Cell(in_short(figure.value), interval)


def interval_in_words(figure: Figure) -> str:
    """Return such as `118 to 122`; empty if the figure has no interval."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{in_short(figure.low)} to {in_short(figure.high)}"


def yes_cell(is_yes: bool, no: Cell) -> Cell:
    """Return a good `yes`, or `no`."""
    return Cell("yes", kind="good") if is_yes else no


def latency_columns(*, of_calls: bool = False) -> tuple[Column[Any], ...]:
    """Return columns of an item's `latencies`. In-process runs have few calls: p90 is a detail there."""
    details = {"p90": of_calls, "p95": True, "p99.9": True}
    return (
        *(
            Column(
                name,
                partial(_percentile_of, name=name),
                "ms",
                brief=name not in details,
                detail=details.get(name, False),
            )
            for name in NEEDED
        ),
        Column("mean", lambda row: row.latencies.mean_ms, "ms", detail=True),
        Column("max", lambda row: row.latencies.max_ms, "ms", detail=True),
        Column("samples", lambda row: f"{row.latencies.samples:,}", detail=True),
    )


def _percentile_of(row: Any, name: str) -> Cell:
    return percentile_cell(row.latencies, name)


def percentile_cell(latencies: Latencies, name: str) -> Cell:
    """Return a percentile such as `p99`; one that is not known says how many samples it needs."""
    value = getattr(latencies, f"{name.replace('.', '_')}_ms")
    return Cell(f"needs {NEEDED[name]:,}", "samples", "refused") if value is None else Cell(in_short(value))


def verdict_cell(verdict: Verdict, run: Verdict) -> Cell:
    """Return VALID or INVALID; a valid row of an INVALID run says so."""
    if verdict.is_valid and not run.is_valid:
        return Cell(verdict.word, "run INVALID")
    return Cell(verdict.word, kind="good" if verdict.is_valid else "bad")
