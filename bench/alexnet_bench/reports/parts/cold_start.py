"""Cold start: time from starting a server until it is ready, and until its first responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...figures.verdicts import Verdict
from ...schema import ColdStart, Report
from ..comparison_rows import ComparisonRow, time_of
from ..names import name_of_cold_start
from ..table_models import Cell, Column, Table, TableRow, figure_cell, grouped
from .part import Part


def _table(starts: Sequence[ColdStart], _: Verdict) -> Table:
    columns = (
        Column("warm-up", brief=True, left=True),
        Column("ready", "ms", brief=True),
        Column("batch", brief=True),
        Column("first", "ms", brief=True),
        Column("second", "ms", brief=True),
    )
    of_batches = [(start, batch) for start in starts for batch in sorted(start.first_ms)]
    groups = grouped(of_batches, lambda of: f"{of[0].model}: {of[0].engine}", lambda of: _table_row(*of))
    return Table(COLD_STARTS.title, columns, groups)


def _table_row(start: ColdStart, batch: int) -> TableRow:
    """The time until the server is ready is in the row of the first batch only."""
    cells = (
        Cell("yes" if start.warmed_up else "no"),
        figure_cell(start.ready_ms) if batch == min(start.first_ms) else Cell(""),
        Cell(str(batch)),
        figure_cell(start.first_ms[batch]),
        figure_cell(start.second_ms[batch]) if batch in start.second_ms else Cell("-"),
    )
    return TableRow(cells)


def _comparison_rows(report: Report) -> Iterator[ComparisonRow]:
    """Judge every time of a cold start."""
    for start in report.cold_starts:
        figures = {
            "ready": start.ready_ms,
            **{f"first at {batch}": figure for batch, figure in start.first_ms.items()},
            **{f"second at {batch}": figure for batch, figure in start.second_ms.items()},
        }
        group = f"cold start: {name_of_cold_start(start)}"
        for name, figure in figures.items():
            yield ComparisonRow(group=group, name=name, measure=time_of(figure), run=report.verdict)


COLD_STARTS: Part[ColdStart] = Part(
    name="cold_starts",
    title="Cold start",
    table=_table,
    sentences=lambda _: (
        "The first request of each batch, and the request after it. Every start of a server is a repeat.",
    ),
    comparison_rows=_comparison_rows,
)
