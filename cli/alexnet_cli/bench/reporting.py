"""What the `bench` commands share: the option for the report, and how one is shown, kept and ended with."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_model.errors import UsageError
from alexnet_model.files import is_stream

if TYPE_CHECKING:
    from alexnet_bench.schema import Report

INTERRUPTED = 130  # as shells say it of SIGINT
ReportOption = Annotated[Path | None, typer.Option("--json", help="Write the report there.", metavar="FILE")]


def check_writable(path: Path | None) -> None:
    """Minutes of measuring are not to end at a folder that cannot be written.

    Raises:
        UsageError: a folder has that name.
        OSError: the folder that it is to stand in cannot be made or written.
    """
    if path is None or is_stream(path):
        return
    if path.is_dir():
        raise UsageError(f"--json {path}", got="a folder", expected="a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def print_tables(report: Report) -> None:
    """Every part that was measured, and the verdict."""
    from alexnet_bench.reports.tables import renderables_from_report

    from ..screen import out

    for part in renderables_from_report(report):
        out.print(part)


def end_with(report: Report, path: Path | None, *, measured: bool) -> None:
    """Write the report where that was asked for; exits 130 after Ctrl-C, and 1 where not all was measured."""
    from alexnet_bench.reports.files import write_report

    if path is not None:
        write_report(path, report)
    if any(reason.rule == "interrupted" for reason in report.reasons):
        raise typer.Exit(INTERRUPTED)
    if not measured:
        raise typer.Exit(1)


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """`1,16` to its numbers, each once.

    Raises:
        UsageError: a word is none.
    """
    try:
        return tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError as error:
        raise UsageError(option, got=repr(text), expected="whole numbers, such as 1,16") from error
