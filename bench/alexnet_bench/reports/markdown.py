"""Reports as a page in Markdown with images beside it, for a repository: what a run says, in short.

    document = document_from_reports(reports, introduction="# Performance", folder="performance")
    write_document(document, Path("docs/performance.md"))

Tables leave out details that are well, and columns in which nothing was found out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from alexnet_model.files import write_text_atomically

from ..schema import Report
from .environments import environment_rows
from .files import check_one_page
from .highlights import tiles_from_reports
from .plots import Plot
from .sections import Section, day_in_words, devices_of, sections_of
from .table_models import Cell, Column, Group, Sheet, tuning_sheet

_MOST_ROWS_OPEN = 30  # a longer table is opened by who wants it; the images say the same
_LONGEST_NAME = 100
_HOW_TO_READ = """A figure is the median of its repeats, and the interval under it is where 95% of bootstrap
resamples lie. `needs 662` stands where a percentile is not known: it takes that many samples, and there were
fewer. INVALID rows and runs say why, and are in no headline. Figures of different devices are never in one
plot or table."""


@dataclass(frozen=True)
class Document:
    """A page, and the images that it shows: SVG by file name, in a folder beside it."""

    text: str
    folder: str
    images: Mapping[str, str]


def document_from_reports(reports: Sequence[Report], *, introduction: str, folder: str) -> Document:
    """Every machine's figures at a glance; then run by run its verdict, images and tables.

    Raises:
        UsageError: the reports of a machine do not belong on one page.
        ReportError: a histogram is broken.
    """
    images = _Images(folder)
    machines: dict[str, list[Report]] = {}
    for report in reports:
        machines.setdefault(" + ".join(report.environment.devices), []).append(report)
    lines = [introduction.rstrip(), "", _HOW_TO_READ, "", "## At a glance", ""]
    for machine, runs in machines.items():
        check_one_page(runs)
        lines += [*_at_a_glance(machine, runs), ""]
    for machine, runs in machines.items():
        lines += [f"## {_escaped(machine)}", ""]
        for report in runs:
            lines += _run(report, images)
        lines += [*_where(runs), ""]
    text = re.sub("\n{3,}", "\n\n", "\n".join(lines))
    return Document(text.rstrip() + "\n", folder, images.found)


def write_document(document: Document, path: Path) -> None:
    """Write the page and its images; images of an earlier one that are no longer shown are removed.

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


class _Images:
    """Gives each image a file name of its own."""

    def __init__(self, folder: str) -> None:
        self.found: dict[str, str] = {}
        self._folder = folder

    def shown(self, image: Plot, device: str) -> str:
        words = image.name if device == "CPU" else f"{device} {image.name}"
        name = re.sub(r"[^a-z0-9]+", "-", words.lower())[:_LONGEST_NAME].strip("-")
        file, number = f"{name}.svg", 1
        while file in self.found:
            number += 1
            file = f"{name}-{number}.svg"
        self.found[file] = image.svg_alone
        return f"![{_escaped(f'{image.title}. {image.note}')}]({quote(self._folder)}/{file})"


def _at_a_glance(machine: str, reports: Sequence[Report]) -> Iterator[str]:
    tiles = tiles_from_reports(reports)
    if not tiles:
        yield f"{_escaped(machine)}: nothing, for no run of it is VALID."
        return
    yield f"| {_escaped(machine)} | | |"
    yield "|:--|:--|:--|"
    for tile in tiles:
        figure = _escaped(tile.figure).replace(" ", "&nbsp;")
        yield f"| {_escaped(tile.name)} | **{figure}** | {_escaped(tile.of)} |"


def _run(report: Report, images: _Images) -> Iterator[str]:
    yield from (f"### {_escaped(report.title)}", "")
    day = day_in_words(report.environment.date)
    yield f"**{report.verdict.word}**, {_escaped(day)}: {_code(report.command)}"
    yield from ("", *(f"- {_escaped(str(reason))}" for reason in report.reasons), "")
    devices = devices_of([report])
    sections = [(device, section) for device in devices for section in sections_of([report], device)]
    for device, section in sections:
        if len(sections) > 1:  # else the run's own title says it
            where = f", {device}" if len(devices) > 1 else ""
            yield from (f"#### {_escaped(section.title + where)}", "")
        yield from _section(section, device, images)
    if report.tuning is not None:
        yield from _table(tuning_sheet(report.tuning))
        yield from (f"Why: {_escaped(report.tuning.why.rstrip('.'))}.", "")
    yield from (f"- Not measured: {_escaped(f'{left.what}: {left.why}')}" for left in report.left_out)
    yield ""


def _section(section: Section, device: str, images: _Images) -> Iterator[str]:
    if section.note:
        yield from (_escaped(section.note), "")
    yield from (images.shown(image, device) for image in section.images)
    yield ""
    for index, sheet in enumerate(section.sheets):
        if index:
            yield from (f"#### {_escaped(sheet.title)}", "")
        yield from _table(sheet)


def _table(sheet: Sheet) -> Iterator[str]:
    """In HTML, for a group's name is as long as its rows: Markdown would break it into the first column."""
    rows = sum(len(group.lines) for group in sheet.groups)
    is_long = rows > _MOST_ROWS_OPEN
    if is_long:
        yield from ("<details>", f"<summary>{_text(sheet.title)}: {rows} rows</summary>", "")
    chosen = _chosen(sheet)
    columns = [sheet.columns[index] for index in chosen]
    yield "<table>"
    yield _tr(_cell("th", column, column.name, column.unit) for column in columns)
    for group in sheet.groups:
        yield f'<tr><th colspan="{len(columns)}" align="left">{_text(group.name)}</th></tr>'
        for line in group.lines:
            cells = (line.cells[index] for index in chosen)
            yield _tr(
                _cell("td", column, cell.text, "" if cell.kind == "refused" else cell.small)
                for column, cell in zip(columns, cells, strict=True)
            )
    yield from ("</table>", "")
    if is_long:
        yield from ("</details>", "")
    yield from (*(f"- {_escaped(words)}" for group in sheet.groups for words in _notes(sheet, group)), "")


def _tr(cells: Iterable[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _cell(tag: str, column: Column, words: str, small: str) -> str:
    align = ' align="left"' if column.left else ' align="right"'
    under = f"<br><sub>{_text(small)}</sub>" if small else ""
    return f"<{tag}{align}>{_text(words)}{under}</{tag}>"


def _text(words: str) -> str:
    """In HTML, and on one line: an empty one would end the table."""
    return escape(" ".join(words.split()), quote=False)


def _chosen(sheet: Sheet) -> list[int]:
    """The columns that say something. A detail is shown where it is bad."""
    lines = [line for group in sheet.groups for line in group.lines]
    columns = [[line.cells[index] for line in lines] for index in range(len(sheet.columns))]
    return [
        index
        for index, (column, cells) in enumerate(zip(sheet.columns, columns, strict=True))
        if any(cell.kind == "bad" for cell in cells) or not (column.detail or all(map(_is_nothing, cells)))
    ]


def _is_nothing(cell: Cell) -> bool:
    return cell.kind == "refused" or cell.text in ("", "-")


def _notes(sheet: Sheet, group: Group) -> Iterator[str]:
    """What is to be said of rows, with their names where it is not of the whole group."""
    first = sheet.columns[0]
    rows_of: dict[str, list[str]] = {}
    for line in group.lines:
        name = line.cells[0].text if first.left else f"{first.name} {line.cells[0].text}"
        for note in line.notes:
            rows_of.setdefault(note, []).append(name)
    for note, rows in rows_of.items():
        which = "" if len(rows) == len(group.lines) > 1 else f", {', '.join(rows)}"
        yield f"{group.name}{which}: {note}"


def _where(reports: Sequence[Report]) -> Iterator[str]:
    first, *rest = (f"| {_escaped(name)} | {_escaped(value)} |" for name, value in environment_rows(reports))
    yield from ("### Where it was measured", "", first, "|:--|:--|", *rest)


def _code(text: str) -> str:
    """Between more backticks than it holds."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _escaped(text: str) -> str:
    """As it is, whatever it holds: no mark, no tag, and no heading or list where it stands first."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return re.sub(r"^(\d*)([-+>.)]|#+)(?= |$)", r"\1\\\2", text)
