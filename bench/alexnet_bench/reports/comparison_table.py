"""A comparison as a table's cells."""

from __future__ import annotations

from .comparing import Compared, Comparison
from .names import in_short
from .table_models import Cell, Column, Group, Kind, Line, Sheet

_KINDS: dict[str, Kind] = {"slower": "bad", "faster": "good", "not judged": "refused"}


def comparison_sheet(comparison: Comparison) -> Sheet:
    """A group such as an engine or sweep, a row such as a batch or load, and one more for a load's p99."""
    columns = (
        Column("", brief=True, left=True),
        Column("before", brief=True),
        Column("after", brief=True),
        Column("", brief=True, left=True),
        Column("ratio", brief=True),
        Column("found", brief=True, left=True),
    )
    groups: dict[str, list[Line]] = {}
    for row in comparison.rows:
        groups.setdefault(row.group, []).append(_line(row))
    return Sheet(
        "After against before", columns, tuple(Group(name, tuple(lines)) for name, lines in groups.items())
    )


def _line(row: Compared) -> Line:
    interval = "" if row.low is None or row.high is None else f"{row.low:.2f} to {row.high:.2f}"
    cells = (
        Cell(row.row),
        Cell(in_short(row.before)),
        Cell(in_short(row.after)),
        Cell(_unit(row)),
        Cell("-" if row.ratio is None else f"{row.ratio:.2f}", interval),
        Cell("INVALID", kind="bad")
        if row.invalid_before or row.invalid_after
        else Cell(row.found, kind=_KINDS.get(row.found, "plain")),
    )
    return Line(cells, row.why_not)


def _unit(row: Compared) -> str:
    """In short, with the percentile that it is of."""
    percentiles = {"median latency": "ms p50", "p99 latency": "ms p99"}
    return percentiles.get(row.figure, "ms" if row.unit == "ms" else "/s")
