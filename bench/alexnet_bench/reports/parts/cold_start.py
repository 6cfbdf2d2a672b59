"""Cold start: time from starting a server until it is ready, and until its first responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...figures.verdicts import Verdict
from ...schema import ColdStart, Report
from ..comparison_rows import ComparisonRow, time_of
from ..names import name_of_cold_start
from ..table_models import Column, Table, figure_cell, table_from_items
from .part import Part


def _table(starts: Sequence[ColdStart], _: Verdict) -> Table:
    """A row for each batch. The time until the server is ready is in the row of the first batch only."""
    columns: list[Column[tuple[ColdStart, int]]] = [
        Column("warm-up", lambda of: "yes" if of[0].warmed_up else "no", brief=True, left=True),
        Column(
            "ready",
            lambda of: figure_cell(of[0].ready_ms) if of[1] == min(of[0].first_ms) else "",
            "ms",
            brief=True,
        ),
        Column("batch", lambda of: str(of[1]), brief=True),
        Column("first", lambda of: figure_cell(of[0].first_ms[of[1]]), "ms", brief=True),
        Column(
            "second",
            lambda of: figure_cell(of[0].second_ms[of[1]]) if of[1] in of[0].second_ms else None,
            "ms",
            brief=True,
        ),
    ]
    items = (
        (f"{start.model}: {start.engine}", [(start, batch) for batch in sorted(start.first_ms)])
        for start in starts
    )
    return table_from_items(COLD_STARTS.title, columns, items)


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
            yield ComparisonRow(group=group, name=name, measure=time_of(figure))


COLD_STARTS: Part[ColdStart] = Part(
    name="cold_starts",
    title="Cold start",
    table=_table,
    sentences=lambda _: (
        "The first request of each batch, and the request after it. Every start of a server is a repeat.",
    ),
    comparison_rows=_comparison_rows,
)
