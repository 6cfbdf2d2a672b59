"""Reports as a page in Markdown with plots beside it.

    document = document_from_reports(reports, introduction="# Performance", folder="performance")
    write_document(document, Path("docs/performance.md"))

The HTML page (page.html) is rendered from the same Markdown, with all columns. It opens offline and holds no
script: everything that comes from a report is escaped by the Markdown, and the template forbids scripts.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from alexnet_model.extras import needs
from alexnet_model.files import write_text_atomically

from ..schema import Report
from .files import check_one_page
from .names import calibration_in_words, day_in_words, environment_rows, in_short
from .parts import PARTS, device_of, devices_of, highlights_from_reports
from .plots import Plot
from .table_models import Cell, Column, Group, Table

_MOST_ROWS_OPEN = 30  # a longer table is folded
_LONGEST_NAME = 100
_HTML_FOLDER = "plots"
_HOW_TO_READ = """A figure is the median of its repeats. The interval below it is a 95% confidence interval
by Student's t on the logarithms of the repeats; one repeat has none. A percentile is given only if there are
enough samples: `needs 662` means that p99 needs that many. INVALID rows and runs say why, and are not among
the highlights. Latencies of an open loop count from the planned send time. Figures of different devices are
never in one plot or table."""


@dataclass(frozen=True)
class Document:
    """A page, and its plots as SVG by file name, in a folder beside it."""

    text: str
    folder: str
    images: Mapping[str, str]


def document_from_reports(
    reports: Sequence[Report], *, introduction: str, folder: str, every_column: bool = False
) -> Document:
    """Return a page: the highlights of each machine, then each run with its verdict, plots and tables.

    Args:
        reports: The reports, of one or more machines.
        introduction: Markdown for the top, with the title.
        folder: The name of the folder for the plots.
        every_column: Show all columns, instead of leaving out details and columns without values.

    Raises:
        UsageError: the reports of a machine do not belong on one page.
        ReportError: a histogram is broken.
    """
    page = _Page(folder, every_column)
    machines: dict[str, list[Report]] = {}
    for report in reports:
        machines.setdefault(" + ".join(report.environment.devices), []).append(report)
    lines = [introduction.rstrip(), "", _HOW_TO_READ, "", "## Highlights", ""]
    for machine, runs in machines.items():
        check_one_page(runs)
        lines += [*_highlights(machine, runs), ""]
    for machine, runs in machines.items():
        lines += [f"## {escaped(machine)}", ""]
        for report in runs:
            lines += page.run(report)
        lines += [*_environment(runs), ""]
    text = re.sub("\n{3,}", "\n\n", "\n".join(lines))
    return Document(text.rstrip() + "\n", folder, page.images)


def write_document(document: Document, path: Path) -> None:
    """Write the page and its plots, and remove plots in its folder that it no longer shows.

    Raises:
        OSError: a folder cannot be written, or the disk is full.
    """
    folder = path.parent / document.folder
    for name, svg in document.images.items():
        write_text_atomically(folder / name, svg)
    write_text_atomically(path, document.text)
    for old in folder.glob("*.svg"):
        if old.name not in document.images:
            old.unlink()


def html_from_reports(reports: Sequence[Report]) -> str:
    """Return the page of reports of one machine, with all columns of their tables.

    Raises:
        UsageError: the reports do not belong on one page.
        ReportError: a histogram is broken.
        MissingExtra: markdown-it-py or matplotlib is not installed.
    """
    check_one_page(reports)
    title = ", ".join(dict.fromkeys(report.title for report in reports))
    document = document_from_reports(
        reports, introduction=f"# {escaped(title)}", folder=_HTML_FOLDER, every_column=True
    )
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(" ".join(title.split())), body=_html_body(document))


def _html_body(document: Document) -> str:
    """Render the Markdown; images become data URIs."""
    with needs("bench"):
        from markdown_it import MarkdownIt
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = markdown.parse(document.text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                svg = document.images[str(child.attrs["src"]).removeprefix(f"{_HTML_FOLDER}/")]
                child.attrs["src"] = f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
    return str(markdown.renderer.render(tokens, markdown.options, {}))


class _Page:
    """Collects the plots while the text is written."""

    def __init__(self, folder: str, every_column: bool) -> None:
        self.images: dict[str, str] = {}
        self._folder = folder
        self._every_column = every_column

    def run(self, report: Report) -> Iterator[str]:
        yield from (f"### {escaped(report.title)}", "")
        day = day_in_words(report.environment.date)
        took = "" if report.seconds is None else f", took {in_short(report.seconds)} s"
        yield f"**{report.verdict.word}**, {escaped(day)}{took}: {_code(report.command)}"
        yield f"(calibration workload: {escaped(calibration_in_words(report))})"
        yield from ("", *(f"- {escaped(str(reason))}" for reason in report.reasons), "")
        devices = devices_of(report)
        sections = [
            (part, device, rows)
            for part in PARTS
            for device in devices
            if (rows := [row for row in part.rows(report) if device_of(row) == device])
        ]
        for index, (part, device, rows) in enumerate(sections):
            if len(sections) > 1 and (index or part.title != report.title):
                where = f", {device}" if len(devices) > 1 else ""
                yield from (f"#### {escaped(part.title + where)}", "")
            drawn = rows
            if not report.verdict.is_valid:  # in an INVALID run, all rows are drawn as INVALID
                run = {"verdict": report.verdict}
                drawn = [row.model_copy(update=run) if hasattr(row, "verdict") else row for row in rows]
            yield from (self._shown(plot, device) for plot in part.plots(drawn))
            yield ""
            yield from self._table(part.table(rows, report.verdict))
            yield from (line for sentence in part.sentences(rows) for line in (escaped(sentence), ""))
        yield from (f"- {escaped(note)}" for note in report.notes)
        yield from (f"- Not measured: {escaped(f'{left.what}: {left.why}')}" for left in report.left_out)
        yield ""

    def _shown(self, plot: Plot, device: str) -> str:
        """Give the plot a file name of its own."""
        words = plot.name if device == "CPU" else f"{device} {plot.name}"
        name = re.sub(r"[^a-z0-9]+", "-", words.lower())[:_LONGEST_NAME].strip("-")
        file, number = f"{name}.svg", 1
        while file in self.images:
            number += 1
            file = f"{name}-{number}.svg"
        self.images[file] = plot.svg
        return f"![{escaped(f'{plot.title}. {plot.note}')}]({quote(self._folder)}/{file})"

    def _table(self, table: Table) -> Iterator[str]:
        """In HTML: in a Markdown table the long name of a group would have to fit into its first column."""
        rows = sum(len(group.rows) for group in table.groups)
        is_long = rows > _MOST_ROWS_OPEN
        if is_long:
            yield from ("<details>", f"<summary>{_text(table.title)}: {rows} rows</summary>", "")
        chosen = range(len(table.columns)) if self._every_column else _chosen(table)
        columns = [table.columns[index] for index in chosen]
        yield "<table>"
        yield _tr(_cell("th", column, column.name, column.unit) for column in columns)
        for group in table.groups:
            yield f'<tr><th colspan="{len(columns)}" align="left">{_text(group.name)}</th></tr>'
            for row in group.rows:
                cells = (row.cells[index] for index in chosen)
                yield _tr(
                    _cell("td", column, cell.text, "" if cell.kind == "refused" else cell.small)
                    for column, cell in zip(columns, cells, strict=True)
                )
        yield from ("</table>", "")
        if is_long:
            yield from ("</details>", "")
        yield from (*(f"- {escaped(words)}" for group in table.groups for words in _notes(table, group)), "")


def _highlights(machine: str, reports: Sequence[Report]) -> Iterator[str]:
    highlights = highlights_from_reports(reports)
    if not any(report.verdict.is_valid for report in reports):
        yield f"{escaped(machine)}: none, since no run is VALID."
    elif highlights:
        yield from (f"| {escaped(machine)} | | |", "|:--|:--|:--|")
        for highlight in highlights:
            figure = escaped(highlight.figure).replace(" ", "&nbsp;")
            yield f"| {escaped(highlight.name)} | **{figure}** | {escaped(highlight.of)} |"


def _tr(cells: Iterable[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _cell(tag: str, column: Column[Any], words: str, small: str) -> str:
    align = ' align="left"' if column.left else ' align="right"'
    below = f"<br><sub>{_text(small)}</sub>" if small else ""
    return f"<{tag}{align}>{_text(words)}{below}</{tag}>"


def _text(words: str) -> str:
    """In HTML, and on one line: an empty line would end the table."""
    return escape(" ".join(words.split()), quote=False)


def _chosen(table: Table) -> list[int]:
    """The columns that have values. A detail is shown if it is bad."""
    rows = [row for group in table.groups for row in group.rows]
    columns = [[row.cells[index] for row in rows] for index in range(len(table.columns))]
    return [
        index
        for index, (column, cells) in enumerate(zip(table.columns, columns, strict=True))
        if any(cell.kind == "bad" for cell in cells) or not (column.detail or all(map(_is_empty, cells)))
    ]


def _is_empty(cell: Cell) -> bool:
    return cell.kind == "refused" or cell.text in ("", "-")


def _notes(table: Table, group: Group) -> Iterator[str]:
    """Each note once, with the names of its rows unless it is on all of the group."""
    first = table.columns[0]
    rows_of: dict[str, list[str]] = {}
    for row in group.rows:
        name = row.cells[0].text if first.left else f"{first.name} {row.cells[0].text}"
        for note in row.notes:
            rows_of.setdefault(note, []).append(name)
    for note, rows in rows_of.items():
        which = "" if len(rows) == len(group.rows) > 1 else f", {', '.join(rows)}"
        yield f"{group.name}{which}: {note}"


def _environment(reports: Sequence[Report]) -> Iterator[str]:
    first, *rest = (f"| {escaped(name)} | {escaped(value)} |" for name, value in environment_rows(reports))
    yield from ("### Environment", "", first, "|:--|:--|", *rest)


def _code(text: str) -> str:
    """Between more backticks than it contains."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def escaped(text: str) -> str:
    """Return Markdown that shows any text unchanged, on one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return re.sub(r"^(\d*)([-+>.)]|#+)(?= |$)", r"\1\\\2", text)
