"""Single figures with their targets: the overhead of the clients, and the checks of the benchmark tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...figures.verdicts import Verdict
from ...schema import FigureRow, Report
from ..comparison_rows import ComparisonRow, Measure
from ..table_models import Cell, Column, Table, TableRow, figure_cell, grouped
from .part import Part


def _table(rows: Sequence[FigureRow], _: Verdict) -> Table:
    columns = (
        Column("figure", brief=True, left=True),
        Column("value", brief=True),
        Column("target", brief=True, left=True),
        Column("met", brief=True, left=True),
    )
    return Table(FIGURES.title, columns, grouped(rows, _group, _table_row))


def _group(row: FigureRow) -> str:
    return row.of if row.engine is None else f"{row.of}: {row.engine}"


def _table_row(row: FigureRow) -> TableRow:
    reached = {None: Cell("-"), True: Cell("yes", kind="good"), False: Cell("NO", kind="bad")}[row.reached]
    number = figure_cell(row.figure)
    value = Cell(f"{number.text} {row.figure.unit}", number.small)
    return TableRow((Cell(row.name), value, Cell(row.target or "-"), reached))


def _comparison_rows(report: Report) -> Iterator[ComparisonRow]:
    """Judge figures of which more or less is better."""
    for row in report.figures:
        if row.better != "neither":
            is_higher = row.better == "higher"
            measure = Measure(name=row.name, unit=row.figure.unit, of=row.figure, higher_is_better=is_higher)
            yield ComparisonRow(group=_group(row), name=row.name, measure=measure, run=report.verdict)


FIGURES: Part[FigureRow] = Part(
    name="figures", title="Figures and targets", table=_table, comparison_rows=_comparison_rows
)
