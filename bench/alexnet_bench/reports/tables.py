"""A report's parts as tables for a terminal of 80 columns.

    console.print(*renderables_from_sheet(engines_sheet(report.engines)))

Only the brief columns are shown; what a row may be doubted by stands below its table.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..schema import Report
from .breakdown_text import breakdown_in_words
from .environments import calibration_in_words
from .table_models import Cell, Column, Group, Kind, Sheet, sheets_of

_STYLES: dict[Kind, str] = {"plain": "", "refused": "dim italic", "bad": "red", "good": "green"}


def renderables_from_report(report: Report) -> list[RenderableType]:
    """Everything of a run, for `console.print(*...)`, the verdict last."""
    parts: list[RenderableType] = []
    for sheet in sheets_of(report):
        parts += renderables_from_sheet(sheet)
    parts += [Text(words) for words in breakdown_in_words(report.breakdown)]
    if report.tuning is not None:
        parts.append(Text(report.tuning.why))
    return [*parts, *verdict_of_run(report)]


def renderables_from_sheet(sheet: Sheet) -> list[RenderableType]:
    """One table under its title; a group's name stands above its rows."""
    shown = [index for index, column in enumerate(sheet.columns) if column.brief]
    parts: list[RenderableType] = [Text(sheet.title, style="bold")]
    for index, group in enumerate(sheet.groups):
        parts.append(Text(group.name, style="cyan"))
        if group.lines:  # of a search that tried nothing there is only why
            parts.append(_table(sheet, group, shown, is_first=index == 0))
        parts += _notes(group)
    return parts


def verdict_of_run(report: Report) -> list[RenderableType]:
    """Whether the run may be believed, and which of its rows may not."""
    verdicts = [*(row.verdict for row in report.engines), *(row.verdict for row in report.loads)]
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


def _table(sheet: Sheet, group: Group, shown: Sequence[int], *, is_first: bool) -> Table:
    table = Table(pad_edge=False, box=None, padding=(0, 1, 0, 0), show_header=is_first)
    widths = _widths(sheet, shown)
    for index in shown:
        column = sheet.columns[index]
        name = _heading(column)
        table.add_column(
            name, justify="left" if column.left else "right", min_width=widths[index], no_wrap=True
        )
    for line in group.lines:
        table.add_row(*(_text(line.cells[index]) for index in shown))
    return table


def _widths(sheet: Sheet, shown: Sequence[int]) -> dict[int, int]:
    """The same in every group, so that columns stand under one another."""
    cells = [line.cells for group in sheet.groups for line in group.lines]
    return {
        index: max(
            *(len(word) for word in _heading(sheet.columns[index]).split("\n")),
            *(len(_words(row[index])) for row in cells),
            0,
        )
        for index in shown
    }


def _heading(column: Column) -> str:
    return f"{column.name}\n{column.unit}".rstrip("\n")


def _notes(group: Group) -> list[Text]:
    return [
        Text(f"  {line.cells[0].text}: {note}", style=_STYLES["bad"])
        for line in group.lines
        for note in line.notes
    ]


def _text(cell: Cell) -> Text:
    return Text(_words(cell), style=_STYLES[cell.kind])


def _words(cell: Cell) -> str:
    """The small print beside the figure; there is no room for it beside a refused one."""
    if cell.kind == "refused":
        return cell.text
    return f"{cell.text} ({cell.small})" if cell.small else cell.text
