"""What the recipes that check the tools share: options, report, exit code, and Markdown section."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from alexnet_bench import Log, Report, report_from_file, report_of_run, write_report
from alexnet_bench.reports.markdown import escaped
from alexnet_bench.reports.names import day_in_words
from alexnet_cli.bench.reporting import print_tables


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
    report = report_of_run(lambda log: measure(log, options), title=title, command=_recorded_command())
    if options.json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        print_tables(report)
    if options.output is not None:
        write_report(options.output, report)
    interrupted = any(reason.rule == "interrupted" for reason in report.reasons)
    return int(interrupted or any(row.reached is False for row in report.figures))


def _recorded_command() -> str:
    """The command line without its output options, which do not change what is measured."""
    arguments = iter(sys.argv)
    words = [
        word
        for word in arguments
        if word != "--json"
        and not word.startswith("--output=")
        and not (word == "--output" and next(arguments))
    ]
    return shlex.join(["python", *words])


def section_of(folder: Path) -> str:
    """Return Markdown of every report in a folder; empty if there is none.

    Raises:
        ReportError: a file is not a report.
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
