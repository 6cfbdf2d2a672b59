"""One HTML file that says everything about a run. It holds no script, asks for nothing, and opens offline.

Whatever comes from a report is escaped; and the page forbids scripts, in case that were ever forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..schema import Report
from .environments import environment_rows, run_rows
from .files import check_one_page
from .highlights import Tile, tiles_from_reports
from .names import in_short, name_of_load
from .plots import Plot, style_of_plots
from .sections import Section, day_in_words, devices_of, sections_of
from .table_models import Cell, Column, Line, Sheet, tuning_sheet

_MOST_ROWS_OPEN = 16  # a longer table is opened by who wants it; the plots say the same
_MOST_REASONS_ON_TOP = 6
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html_from_reports(reports: Sequence[Report]) -> str:
    """The page of one run, which may have left several reports.

    Raises:
        UsageError: the reports do not belong on one page.
        ReportError: a histogram is broken.
    """
    check_one_page(reports)
    devices = devices_of(reports)
    body = [
        _head(reports),
        _reasons(reports),
        *(_device(device, index, reports) for index, device in enumerate(devices)),
        *(_tuning(report) for report in reports),
        _left_out(reports),
        "<h2 id='environment'>Where and how it was measured</h2>",
        _facts("Environment", environment_rows(reports)),
        _facts("Runs", run_rows(reports)),
        _HOW_TO_READ,
    ]
    style = style_of_plots() + Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<link rel='icon' href='data:,'><title>{escape(_title(reports))}</title>"
        f"<style>\n{style}</style></head>\n<body>\n" + "\n".join(filter(None, body)) + "\n</body></html>\n"
    )


_HOW_TO_READ = """<h2>How to read it</h2>
<p>A figure is the median of its repeats, and the interval under it is where 95% of bootstrap resamples lie.
A percentile is refused where too few samples lie beyond it: p90 needs 64, p95 130, p99 662, p99.9 6,636.
INVALID rows are shown with their reason and are in no headline. Of an open loop, latency runs from when a
request was meant to be sent. Rows of different devices are never in one plot or table.</p>"""


def _title(reports: Sequence[Report]) -> str:
    return ", ".join(dict.fromkeys(report.title for report in reports))


def _head(reports: Sequence[Report]) -> str:
    first = reports[0].environment
    places = [("environment", "environment")]
    places = [(f"device{index}", device) for index, device in enumerate(devices_of(reports))] + places
    links = " ".join(f"<a href='#{place}'>{escape(name)}</a>" for place, name in places)
    against = sum(not report.verdict.is_valid for report in reports)
    verdicts = [row.verdict for report in reports for row in report.engines]
    verdicts += [row.verdict for report in reports for row in report.loads]
    badge = _badge(against == 0)
    if against:
        of_what = "the whole run" if against == len(reports) else f"{against} of {len(reports)} runs"
        badge += f" <span class='soft'>{of_what}, for the reasons below</span>"
    elif verdicts:
        valid = sum(verdict.is_valid for verdict in verdicts)
        badge += f" <span class='soft'>{valid} of {len(verdicts)} rows are VALID</span>"
    commits = ", ".join(dict.fromkeys(r.environment.commit or "no commit" for r in reports))
    where = " · ".join((" + ".join(first.devices), day_in_words(first.date), commits))
    return (
        f"<header><h1>{escape(_title(reports))}</h1><p>{badge}</p><p class='soft'>{escape(where)}</p>"
        f"<nav>{links}</nav></header>\n" + _tiles(tiles_from_reports(reports))
    )


def _tiles(tiles: Sequence[Tile]) -> str:
    if not tiles:
        return ""
    shown = "".join(
        f"<div><dt>{escape(tile.name)}</dt><dd>{escape(tile.figure)}<small>{escape(tile.of)}</small></dd></div>"
        for tile in tiles
    )
    return f"<dl class='tiles'>{shown}</dl>"


def _reasons(reports: Sequence[Report]) -> str:
    whole = [f"{report.title}: {reason}" for report in reports for reason in report.reasons]
    engines = [(str(row.engine), row.verdict) for report in reports for row in report.engines]
    loads = [(name_of_load(row), row.verdict) for report in reports for row in report.loads]
    found = (f"{name}: {reason}" for name, verdict in engines + loads for reason in verdict.reasons)
    rows = list(dict.fromkeys(found))  # what is said of an engine is mostly said of each of its batches
    if not whole and not rows:
        return ""
    items = "".join(
        f"<li><b>INVALID</b> {escape(words)}</li>" for words in (*whole, *rows[:_MOST_REASONS_ON_TOP])
    )
    if len(rows) > _MOST_REASONS_ON_TOP:
        items += f"<li>and {len(rows) - _MOST_REASONS_ON_TOP} more, each in its table</li>"
    return f"<ul class='reasons'>{items}</ul>"


def _device(device: str, index: int, reports: Sequence[Report]) -> str:
    """Everything that was measured on one device."""
    name = f"CPU: {reports[0].environment.machine}" if device == "CPU" else device
    sections = map(_section, sections_of(reports, device))
    return "\n".join((f"<h2 id='device{index}'>{escape(name)}</h2>", *sections))


def _section(section: Section) -> str:
    parts = [
        f"<h3>{escape(section.title)}</h3>",
        f"<p class='soft'>{escape(section.note)}</p>" if section.note else "",
        _plots(section.images, "wide" if section.is_wide else ""),
        *map(_table, section.sheets),
    ]
    return "\n".join(filter(None, parts))


def _tuning(report: Report) -> str:
    if report.tuning is None:
        return ""
    limit = in_short(report.tuning.limit_p99_ms)
    return f"<h2>Tuned for a p99 within {limit} ms</h2><p>{escape(report.tuning.why)}</p>" + _table(
        tuning_sheet(report.tuning)
    )


def _left_out(reports: Sequence[Report]) -> str:
    items = "".join(
        f"<li>{escape(f'{left.what}: {left.why}')}</li>" for report in reports for left in report.left_out
    )
    return f"<h2>What was not measured</h2><ul>{items}</ul>" if items else ""


def _badge(is_valid: bool) -> str:
    return f"<span class='badge {'good' if is_valid else 'bad'}'>{'VALID' if is_valid else 'INVALID'}</span>"


def _plots(images: Sequence[Plot], width: str) -> str:
    shown = "".join(
        f"<figure><figcaption>{escape(image.title)}<span>{escape(image.note)}</span></figcaption>"
        f"{image.svg}</figure>"
        for image in images
    )
    return f"<div class='plots {width}'>{shown}</div>" if shown else ""


def _table(sheet: Sheet) -> str:
    names = "".join(_heading(column) for column in sheet.columns)
    width = len(sheet.columns)
    groups = "".join(
        f"<tbody><tr><th scope='rowgroup' colspan='{width}'><span>{escape(group.name)}</span></th></tr>"
        + "".join(_row(line, sheet.columns) for line in group.lines)
        + "</tbody>"
        for group in sheet.groups
    )
    rows = sum(len(group.lines) for group in sheet.groups)
    is_open = " open" if rows <= _MOST_ROWS_OPEN else ""
    counted = f"({rows} row{'' if rows == 1 else 's'})"
    name = escape(sheet.title) + ("" if sheet.title.endswith("?") else ":")
    return (
        f"<details{is_open}><summary>{name} every figure <span>{counted}</span></summary>"
        f"<div class='sheet' role='region' tabindex='0' aria-label='{escape(sheet.title)}'>"
        f"<table><thead><tr>{names}</tr></thead>{groups}</table></div></details>"
    )


def _heading(column: Column) -> str:
    left = " class='left'" if column.left else ""
    return f"<th scope='col'{left}>{escape(column.name)}{_small(column.unit)}</th>"


def _row(line: Line, columns: Sequence[Column]) -> str:
    cells = "".join(_cell(cell, column) for cell, column in zip(line.cells, columns, strict=True))
    notes = "".join(
        f"<tr><td class='note' colspan='{len(columns)}'><span>{escape(note)}</span></td></tr>"
        for note in line.notes
    )
    return f"<tr>{cells}</tr>{notes}"


def _cell(cell: Cell, column: Column) -> str:
    kinds = " ".join(filter(None, ("left" if column.left else "", cell.kind if cell.kind != "plain" else "")))
    return f"<td class='{kinds}'>{escape(cell.text)}{_small(cell.small)}</td>"


def _small(words: str) -> str:
    return f"<small>{escape(words)}</small>" if words else ""


def _facts(title: str, rows: Sequence[tuple[str, str]]) -> str:
    shown = "".join(
        f"<tr><th scope='row' class='left'>{escape(name)}</th><td class='left'>{escape(value)}</td></tr>"
        for name, value in rows
    )
    return (
        f"<h3>{title}</h3><div class='sheet facts' role='region' tabindex='0' aria-label='{title}'>"
        f"<table><tbody>{shown}</tbody></table></div>"
    )
