"""What the recipes that check the tools share: options, report, exit code, and Markdown section."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from alexnet_bench import FigureRow, Log, Report, report_from_file, report_of_run, write_report
from alexnet_bench.reports.markdown import escaped
from alexnet_bench.reports.names import day_in_words
from alexnet_cli.screen import say


def run_recipe(
    title: str, parser: argparse.ArgumentParser, measure: Callable[[Log, argparse.Namespace], None]
) -> int:
    """Parse the options, measure, print the report, write it with `--output`, and return the exit code.

    Args:
        title: The title of the report.
        parser: The options of the recipe; `--json` and `--output` are added.
        measure: Measures, and adds `FigureRow`s and notes to the log.

    Returns:
        0; 1 if a figure does not reach its target or the run was interrupted.
    """
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON")
    options = parser.parse_args()
    words = [word for word in sys.argv if word not in ("--json", "--output", str(options.output))]
    report = report_of_run(
        lambda log: measure(log, options), title=title, command=shlex.join(["python", *words])
    )
    if options.json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        print_report(report)
    if options.output is not None:
        write_report(options.output, report)
    interrupted = any(reason.rule == "interrupted" for reason in report.reasons)
    return int(interrupted or any(row.reached is False for row in report.figures))


def print_report(report: Report) -> None:
    say(f"{report.environment.machine}; {report.title}")
    for row in report.figures:
        say(f"  {row.name}, {row.of}: {row.figure}; {in_words(row)}")
    for words in (*report.notes, *map(str, report.reasons)):
        say(f"  {words}")


def in_words(row: FigureRow) -> str:
    """The target and whether it is reached."""
    return f"{row.target}: {'yes' if row.reached else 'NO'}" if row.target else "no target"


def section_of(folder: Path) -> str:
    """Markdown of every result in a folder; empty where there is none.

    Raises:
        ReportError: a file is not such a result.
    """
    reports = [report_from_file(file) for file in sorted(folder.glob("*.json"))]
    return "\n".join(line for report in reports for line in _lines_of(report)) if reports else ""


def _lines_of(report: Report) -> Iterator[str]:
    day = day_in_words(report.environment.date)
    yield from (f"### {escaped(report.title)}", "")
    commit = report.environment.commit or "no commit"
    yield f"{escaped(report.environment.machine)}, {day}, {commit}: `{report.command}`"
    yield from ("", "| figure | of | value | target | reached |", "|:--|:--|:--|:--|:--|")
    for row in report.figures:
        cells = (row.name, row.of, str(row.figure), row.target)
        reached = "yes" if row.reached else "**no**"
        yield f"| {' | '.join(map(escaped, cells))} | {reached} |"
    yield from ("", *(f"- {escaped(note)}" for note in report.notes), "")
