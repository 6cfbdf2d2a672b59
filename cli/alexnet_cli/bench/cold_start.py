"""`alexnet bench cold-start`: the time until a server is ready, and of its first requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .reporting import JsonFlag, OutputOption, check_output, finish, recorded_command


def cold_start_command(
    context: typer.Context,
    repository: Annotated[Path, typer.Argument(help="A Triton model repository.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="A model of the repository; may be repeated.", metavar="NAME", show_default="all"
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, max=20, help="Starts of each model, in alternating order.")
    ] = 3,
    as_json: JsonFlag = False,
    output: OutputOption = None,
) -> None:
    """Time the start of a server and its first requests, with and without warm-up.

    Each model is started alone on an embedded server. From the second start on,
    the model's files are in the machine's file cache.

    Example: alexnet bench cold-start model_repository --output build/cold_start.json
    """
    from alexnet_bench import bench_cold_start

    from ..screen import Bars

    check_output(output)
    with Bars() as bars:
        report = bench_cold_start(
            repository, model, repeats=repeats, command=recorded_command(context), progress=bars
        )
    finish(report, as_json=as_json, output=output, measured=bool(report.cold_starts))
