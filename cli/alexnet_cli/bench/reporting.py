"""What the benchmark commands share: their output options, their recorded command line, and how they end."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_model.errors import UsageError
from alexnet_model.files import is_stream

from ..options import JsonFlag

if TYPE_CHECKING:
    from alexnet_bench import Report

__all__ = ["JsonFlag", "OutputOption", "check_output", "finish", "print_tables", "recorded_command"]

INTERRUPTED = 130  # the exit code that shells use for SIGINT
OutputOption = Annotated[
    Path | None, typer.Option("--output", help="Write the report to this file as JSON.", metavar="FILE")
]
_NOT_RECORDED = ("as_json", "output", "help")  # they do not change what is measured
_SECRET = ("header",)  # recorded without their values


def check_output(path: Path | None) -> None:
    """Check that the report can be written, before minutes of measuring.

    Raises:
        UsageError: the path is a folder.
        OSError: its folder cannot be created or written.
    """
    if path is None or is_stream(path):
        return
    if path.is_dir():
        raise UsageError(f"--output {path}", got="a folder", expected="a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def recorded_command(context: typer.Context) -> str:
    """Return the command line of `context`, the running command, as its report records it.

    Every option that has a value is in it, defaults too, so that the report says what was measured. `--json`
    and `--output` are left out. A header is recorded by its name only: its value may be a secret.
    """
    words = context.command_path.split()
    for parameter in context.command.params:
        if parameter.name not in _NOT_RECORDED:
            words += _words_of(parameter, context.params.get(parameter.name))
    return shlex.join(words)


def _words_of(parameter: Any, value: Any) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, bool):
        spelled = parameter.opts if value else parameter.secondary_opts
        if value != parameter.default:
            yield spelled[0]
        return
    for one in value if isinstance(value, (list, tuple)) else (value,):
        if parameter.param_type_name == "option":
            yield max(parameter.opts, key=len)
        yield _word(one, is_secret=parameter.name in _SECRET)


def _word(value: Any, *, is_secret: bool) -> str:
    if is_secret:
        return str(value).partition(":")[0].strip()
    if isinstance(value, Enum):
        return str(value.value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_tables(report: Report) -> None:
    """Print the table of every part that was measured, and the verdict."""
    from alexnet_bench import renderables_from_report

    from ..screen import out

    for part in renderables_from_report(report):
        out.print(part)


def finish(
    report: Report,
    *,
    as_json: bool,
    output: Path | None,
    measured: bool,
    show: Callable[[Report], None] = print_tables,
    message: str = "",
) -> None:
    """Print the report, write it to a file if there is one, and exit if the run failed or was interrupted.

    Args:
        report: The result.
        as_json: Print it as JSON to standard output instead of as tables.
        output: The file to write it to as JSON; None writes none.
        measured: Whether everything that was requested was measured; if not, the exit code is 1.
        show: Prints the tables.
        message: A line for standard error after the tables.

    Raises:
        typer.Exit: with code 130 after Ctrl-C, and with code 1 if not everything was measured.
        OSError: the file cannot be written.
    """
    from alexnet_bench import write_report

    from ..screen import note

    if as_json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        show(report)
    if message:
        note(message)
    if output is not None:
        write_report(output, report)
    if any(reason.rule == "interrupted" for reason in report.reasons):
        raise typer.Exit(INTERRUPTED)
    if not measured:
        raise typer.Exit(1)


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Parse `1,16` to its numbers, each once.

    Raises:
        UsageError: a word is not a whole number.
    """
    try:
        return tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError as error:
        raise UsageError(option, got=repr(text), expected="whole numbers, such as 1,16") from error
