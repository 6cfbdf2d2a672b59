"""`alexnet bench`: measure engines and servers, with a verdict on each figure."""

from __future__ import annotations

from collections.abc import Callable

import typer

from ..help import PlainCommand, PlainGroup
from .breakdown import breakdown_command
from .cold_start import cold_start_command
from .engine import engine_command
from .loader import loader_command
from .report import report_command
from .server import server_command

app = typer.Typer(
    name="bench",
    cls=PlainGroup,
    help="Measure engines and servers, with a verdict on each figure.\n\n"
    "Example: alexnet bench engine build/export --output build/engine.json",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "engine": engine_command,
    "server": server_command,
    "breakdown": breakdown_command,
    "cold-start": cold_start_command,
    "loader": loader_command,
    "report": report_command,
}
for _name, _command in _COMMANDS.items():
    app.command(_name, cls=PlainCommand)(_command)
app.command("rungs", hidden=True, cls=PlainCommand)(breakdown_command)  # the command's name until 0.1
