"""`alexnet`: parses, calls one verb, prints.

Here are the commands' register and the one border where an error becomes a line on standard error and an
exit code: 2 for wrong usage, 1 for a failure, 130 for Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from alexnet_model.errors import AlexnetError

from . import bench, classify, compare, demo, doctor, export, lint, serve, train, tune, ui

INTERRUPTED = 130  # as shells say it of SIGINT

app = typer.Typer(
    name="alexnet",
    help="A trained image classifier to ONNX in three precisions to Triton, provably the same model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("train")(train.train_command)
app.command("export")(export.export_command)
app.command("lint")(lint.lint_command)
app.command("serve")(serve.serve_command)
app.command("classify")(classify.classify_command)
app.command("ui")(ui.ui_command)
app.command("doctor")(doctor.doctor_command)
app.command("demo")(demo.demo_command)
app.command("tune")(tune.tune_command)
app.add_typer(bench.app)
app.command("compare")(compare.compare_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"alexnet-serving {version('alexnet-serving')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Runs before every command; its options are read by `main` itself."""


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _exit_cleanly)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and give its exit code; nothing but a bug under `--debug` escapes."""
    debug = "--debug" in arguments
    try:
        code = app(arguments, standalone_mode=False, prog_name="alexnet")
    except (KeyboardInterrupt, typer.Abort):
        return _failed("Interrupted.", INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, typer.TyperException) and not error.format_message():
            return error.exit_code  # nothing was asked for: the help was shown, and there is no more to say
        return _failed(_line_of(error), getattr(error, "exit_code", 1))
    if code == INTERRUPTED:
        return _failed("Interrupted.", INTERRUPTED)  # typer has taken the exception for itself
    return code if isinstance(code, int) else 0


def _line_of(error: Exception) -> str:
    if isinstance(error, AlexnetError):
        return f"Error: {error}"
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "alexnet"
        return f"Error: {error.format_message().rstrip('.')}. Try '{command} --help'."
    if isinstance(error, OSError):
        subject = error.filename or "input or output"
        next_step = " Free some space." if error.errno == errno.ENOSPC else ""
        return f"Error: {subject}: {error.strerror or error}.{next_step}"
    return f"Error: a bug in alexnet ({type(error).__name__}: {error}). Run again with alexnet --debug."


def _failed(line: str, code: int) -> int:
    try:
        from .screen import harmless

        typer.echo("\n".join(map(harmless, line.splitlines())), err=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return code


def _exit_cleanly(_: int, __: FrameType | None) -> None:
    """SIGTERM unwinds like an exit, so that every `with` closes what it opened."""
    raise SystemExit(143)
