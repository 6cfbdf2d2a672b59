"""`alexnet bench cold-start`: how long until a server is ready, and until its first answers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from .reporting import ReportOption, check_writable, end_with, print_tables


def cold_start_command(
    repository: Annotated[Path, typer.Argument(help="A Triton model repository.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="One of its models; may be repeated.", metavar="NAME", show_default="all of them"
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, max=20, help="Starts of each, all in turn.")] = 3,
    json_file: ReportOption = None,
) -> None:
    """Start a server for each model, with its warm-up and without, and time its first requests.

    From the start of the embedded server. Its files may lie in the machine's cache; after one start they do.

    Example: alexnet bench cold-start build/model_repository --json cold_start.json
    """
    from alexnet_bench.cold_start import bench_cold_start

    from ..screen import Bars

    check_writable(json_file)
    words = ["alexnet", "bench", "cold-start", str(repository)]
    words += [word for name in model or () for word in ("--model", name)]
    words += ["--repeats", str(repeats)]
    with Bars() as bars:
        report = bench_cold_start(
            repository, model, repeats=repeats, command=shlex.join(words), progress=bars
        )
    print_tables(report)
    end_with(report, json_file, measured=bool(report.cold_starts))
