"""`alexnet bench`: measure engines and servers, with a verdict on each figure."""

from __future__ import annotations

import typer

from .breakdown import breakdown_command
from .cold_start import cold_start_command
from .engine import engine_command
from .loader import loader_command
from .report import report_command
from .server import server_command

app = typer.Typer(
    name="bench",
    help="Measure engines and servers, with a verdict on each figure.\n\n"
    "Example: alexnet bench engine build/export --output build/engine.json",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("cold-start")(cold_start_command)
app.command("engine")(engine_command)
app.command("loader")(loader_command)
app.command("report")(report_command)
app.command("breakdown")(breakdown_command)
app.command("rungs", hidden=True)(breakdown_command)  # the command's name until 0.1
app.command("server")(server_command)
