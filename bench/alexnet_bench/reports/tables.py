"""A report as tables for a terminal of 80 columns: `console.print(*renderables_from_report(report))`.

Only the brief columns are shown. Notes on rows are below their table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from ..schema import Report
from .names import calibration_in_words
from .parts import PARTS
from .table_models import Cell, Column, Group, Kind, Table

_STYLES: dict[Kind, str] = {"plain": "", "refused": "dim italic", "bad": "red", "good": "green"}


def renderables_from_report(report: Report) -> list[RenderableType]:
    """Return everything of a report for `console.print(*...)`, the verdict last."""
    found: list[RenderableType] = []
    for part in PARTS:
        if rows := part.rows(report):
            found += renderables_from_table(part.table(rows, report.verdict))
            found += [Text(sentence) for sentence in part.sentences(rows)]
    return [*found, *map(Text, report.notes), *verdict_of_run(report)]


def renderables_from_table(table: Table) -> list[RenderableType]:
    """Return a table below its title; the name of a group is above its rows."""
    shown = [index for index, column in enumerate(table.columns) if column.brief]
    found: list[RenderableType] = [Text(table.title, style="bold")]
    for index, group in enumerate(table.groups):
        found.append(Text(group.name, style="cyan"))
        if group.rows:  # a search that tried no rate has none
            found.append(_table(table, group, shown, is_first=index == 0))
        found += _notes(group)
    return found


def verdict_of_run(report: Report) -> list[RenderableType]:
    """Return the verdict on the run, what was not measured, and the reasons against the run."""
    verdicts = [row.verdict for part in PARTS for row in part.rows(report) if hasattr(row, "verdict")]
    valid = sum(verdict.is_valid for verdict in verdicts)
    of_what = ", the whole run" if report.reasons else ""
    if verdicts and not report.reasons:
        of_what = f", {valid} of {len(verdicts)} rows are VALID"
    is_valid = report.verdict.is_valid and (valid > 0 or not verdicts)
    word = ("VALID", _STYLES["good"]) if is_valid else ("INVALID", _STYLES["bad"])
    first = Text.assemble(word, f"{of_what}; {report.environment.machine}")
    lines = [first, Text(f"calibration workload: {calibration_in_words(report)}", style="dim")]
    lines += [Text(f"left out: {left.what}: {left.why}", style="dim") for left in report.left_out]
    return [*lines, *(Text(str(reason), style=_STYLES["bad"]) for reason in report.reasons)]


def _table(table: Table, group: Group, shown: Sequence[int], *, is_first: bool) -> RichTable:
    rich = RichTable(pad_edge=False, box=None, padding=(0, 1, 0, 0), show_header=is_first)
    widths = _widths(table, shown)
    for index in shown:
        column = table.columns[index]
        rich.add_column(
            _heading(column),
            justify="left" if column.left else "right",
            min_width=widths[index],
            no_wrap=True,
        )
    for row in group.rows:
        rich.add_row(*(_text(row.cells[index]) for index in shown))
    return rich


def _widths(table: Table, shown: Sequence[int]) -> dict[int, int]:
    """The same in every group, so that columns are below one another."""
    cells = [row.cells for group in table.groups for row in group.rows]
    return {
        index: max(
            *(len(word) for word in _heading(table.columns[index]).split("\n")),
            *(len(_words(row[index])) for row in cells),
            0,
        )
        for index in shown
    }


def _heading(column: Column[Any]) -> str:
    return f"{column.name}\n{column.unit}".rstrip("\n")


def _notes(group: Group) -> list[Text]:
    return [
        Text(f"  {row.cells[0].text}: {note}", style=_STYLES["bad"])
        for row in group.rows
        for note in row.notes
    ]


def _text(cell: Cell) -> Text:
    return Text(_words(cell), style=_STYLES[cell.kind])


def _words(cell: Cell) -> str:
    """The small print is beside the text; there is no space for it beside a refused percentile."""
    if cell.kind == "refused":
        return cell.text
    return f"{cell.text} ({cell.small})" if cell.small else cell.text
