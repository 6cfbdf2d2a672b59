"""`alexnet`: the list of commands, and the translation of errors to exit codes.

An error becomes one line on standard error and an exit code: 2 for wrong usage, 1 for a failure, 130 for
Ctrl-C. A traceback is printed only with `--debug`.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated

import typer

from alexnet_model.errors import AlexnetError

from . import (
    bench,
    classify,
    compare,
    demo,
    doctor,
    export,
    lint,
    pack,
    predict,
    rollback,
    serve,
    train,
    tune,
    ui,
)
from .help import PlainCommand, PlainGroup

INTERRUPTED = 130  # 128 + SIGINT, as shells report it

app = typer.Typer(
    name="alexnet",
    cls=PlainGroup,
    help="Export a trained image classifier to ONNX and TensorRT, check it, and serve it on Triton.\n\n"
    "Example: alexnet demo --quick",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help.py writes the help
)
_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Start": {"demo": demo.demo_command, "doctor": doctor.doctor_command},
    "Make a model": {"train": train.train_command, "export": export.export_command},
    "Serve a model": {
        "lint": lint.lint_command,
        "serve": serve.serve_command,
        "rollback": rollback.rollback_command,
        "pack": pack.pack_command,
        "tune": tune.tune_command,
    },
    "Classify images": {
        "classify": classify.classify_command,
        "predict": predict.predict_command,
        "ui": ui.ui_command,
    },
    "Measure": {"compare": compare.compare_command},
}
for _group, _commands in _COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, cls=PlainCommand, rich_help_panel=_group)(_command)
app.add_typer(bench.app, rich_help_panel="Measure")


def _print_version(wanted: bool) -> None:
    if wanted:
        from alexnet_model.version import DISTRIBUTION, version_with_commit

        typer.echo(f"{DISTRIBUTION} {version_with_commit()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and the commit."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Declare the options before the command; `run` reads `--debug` itself."""


def main() -> None:
    """Run the command line of this process and exit."""
    signal.signal(signal.SIGTERM, _exit_cleanly)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup lets a command outlive its terminal
        signal.signal(signal.SIGHUP, _exit_cleanly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None if it is closed
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line.

    Args:
        arguments: The words after `alexnet`.

    Returns:
        The exit code. With `--debug` an error is raised instead, unless the command line did not parse.
    """
    debug = "--debug" in arguments
    try:
        # `train` prints the command that resumes it.
        code = app(arguments, standalone_mode=False, prog_name="alexnet", obj=arguments)
    except (KeyboardInterrupt, typer.Abort):
        return _failed("Interrupted.", INTERRUPTED)
    except Exception as error:
        # Typer does not export this class, whose message is the help.
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error))
            return getattr(error, "exit_code", 2)
        if debug and not isinstance(error, typer.TyperException):
            raise
        return _failed(_line_of(error), getattr(error, "exit_code", 1))
    if code == INTERRUPTED:
        return _failed("Interrupted.", INTERRUPTED)  # typer has caught the exception
    return code if isinstance(code, int) else 0


def _line_of(error: Exception) -> str:
    if isinstance(error, AlexnetError):
        return f"Error: {error}"
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "alexnet"
        message = error.format_message().rstrip(".")
        message += "" if message.endswith("?") else "."
        options = [name for option in context.command.params for name in option.opts] if context else []
        if "unexpected extra argument" in message and "--repository" in options:
            message += " A model repository is named with --repository."
        return f"Error: {message} Try '{command} --help'."
    if isinstance(error, OSError):
        subject = error.filename or "input or output"
        next_step = " Free some space." if error.errno == errno.ENOSPC else ""
        return f"Error: {subject}: {error.strerror or error}.{next_step}"
    return f"Error: a bug in alexnet ({type(error).__name__}: {error}). Run again with alexnet --debug."


def _failed(line: str, code: int) -> int:
    try:
        from .screen import escaped

        typer.echo("\n".join(map(escaped, line.splitlines())), err=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return code


def _exit_cleanly(number: int, _: FrameType | None) -> None:
    """Exit on SIGTERM and SIGHUP by an exception, so that every `with` block closes its resources."""
    raise SystemExit(128 + number)
