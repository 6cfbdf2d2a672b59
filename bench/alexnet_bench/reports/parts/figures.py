"""Single figures with their targets: the overhead of the clients, and the checks of the benchmark tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...figures.verdicts import Verdict
from ...schema import FigureRow, Report
from ..comparison_rows import ComparisonRow, Measure
from ..table_models import Cell, Column, Table, figure_cell, table_from_items, yes_cell
from .part import Part


def _table(rows: Sequence[FigureRow], _: Verdict) -> Table:
    columns: list[Column[FigureRow]] = [
        Column("figure", lambda row: row.name, brief=True, left=True),
        Column("value", _value, brief=True),
        Column("target", lambda row: row.target or "-", brief=True, left=True),
        Column("met", _met, brief=True, left=True),
    ]
    return table_from_items(FIGURES.title, columns, ((_group(row), [row]) for row in rows))


def _group(row: FigureRow) -> str:
    return row.of if row.engine is None else f"{row.of}: {row.engine}"


def _value(row: FigureRow) -> Cell:
    number = figure_cell(row.figure)
    return Cell(f"{number.text} {row.figure.unit}", number.small)


def _met(row: FigureRow) -> Cell:
    return Cell("-") if row.reached is None else yes_cell(row.reached, Cell("NO", kind="bad"))


def _comparison_rows(report: Report) -> Iterator[ComparisonRow]:
    """Judge figures of which more or less is better."""
    for row in report.figures:
        if row.better != "neither":
            is_higher = row.better == "higher"
            measure = Measure(name=row.name, unit=row.figure.unit, of=row.figure, higher_is_better=is_higher)
            yield ComparisonRow(group=_group(row), name=row.name, measure=measure)


FIGURES: Part[FigureRow] = Part(
    name="figures", title="Figures and targets", table=_table, comparison_rows=_comparison_rows
)
