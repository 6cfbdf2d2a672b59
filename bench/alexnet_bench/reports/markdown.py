"""Reports as tables in Markdown, for a page in a repository: the sheets that terminal and page draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .environments import environment_rows
from .schema import Report
from .sheets import Cell, Sheet, sheets_of


def markdown_from_reports(reports: Sequence[Report]) -> str:
    """Every report's tables under its title, its command and its verdict; then the environment."""
    lines: list[str] = []
    for report in reports:
        word = "VALID" if report.verdict.is_valid else "INVALID"
        lines += [
            f"## {_escaped(report.title)}",
            "",
            f"`{report.command}`, {report.environment.date}: **{word}**.",
            "",
        ]
        lines += [f"- {_escaped(str(reason))}" for reason in report.reasons]
        if report.reasons:
            lines.append("")
        for sheet in sheets_of(report):
            lines += [*_table(sheet), ""]
        if report.tuning is not None:
            lines += [f"Why: {_escaped(report.tuning.why)}.", ""]
        lines += [f"- Not measured: {_escaped(left.what)}: {_escaped(left.why)}" for left in report.left_out]
        if report.left_out:
            lines.append("")
    lines += ["## Where", "", "| | |", "|---|---|"]
    lines += [f"| {_escaped(name)} | {_escaped(value)} |" for name, value in environment_rows(reports)]
    return "\n".join(lines) + "\n"


def _table(sheet: Sheet) -> Iterator[str]:
    yield f"### {_escaped(sheet.title)}"
    yield ""
    yield (
        "| "
        + " | ".join(
            _escaped(f"{column.name}, {column.unit}" if column.unit else column.name)
            for column in sheet.columns
        )
        + " |"
    )
    yield "|" + "|".join("---" if column.left else "--:" for column in sheet.columns) + "|"
    notes: list[str] = []
    for group in sheet.groups:
        if len(sheet.groups) > 1:
            yield f"| **{_escaped(group.name)}** |" + " |" * (len(sheet.columns) - 1)
        for line in group.lines:
            yield "| " + " | ".join(_cell(cell) for cell in line.cells) + " |"
            notes += line.notes
    if notes:
        yield ""
        yield from (f"- {_escaped(note)}" for note in dict.fromkeys(notes))


def _cell(cell: Cell) -> str:
    return _escaped(f"{cell.text} ({cell.small})" if cell.small else cell.text)


def _escaped(text: str) -> str:
    """As it is, whatever it holds."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
