"""`alexnet bench tune`: how to serve an export so that it holds the most within a limit."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from .reporting import ReportOption, check_writable, end_with, print_tables


def tune_command(
    export: Annotated[Path, typer.Argument(help="The folder of an export.", metavar="EXPORT")],
    limit_p99_ms: Annotated[
        float, typer.Option("--limit-p99-ms", help="The latency that 99% of requests must keep.")
    ],
    repository: Annotated[
        Path | None,
        typer.Option("--repository", help="Write this repository with the winner's options, after lint."),
    ] = None,
    probes: Annotated[int, typer.Option(min=2, max=20, help="Rates that are tried a configuration.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each load, where p99 does not need more.")] = 2,
    json_file: ReportOption = None,
) -> None:
    """Try configurations on an embedded server, one change at a time, and say why the winner won.

    Exits 1 where no rate holds the limit; nothing is written then.

    Example: alexnet bench tune demo/export --limit-p99-ms 50 --repository demo/model_repository
    """
    from alexnet_bench.loads.plans import Timing
    from alexnet_bench.tuning import TuningOptions, base_options, bench_tuning, winner_of, write_winner
    from alexnet_model.manifest import manifest_from_folder

    from ..screen import Bars, note

    timing = Timing(burn_in_s=0.5, seconds=seconds, repeats=1)
    options = TuningOptions(limit_p99_ms=limit_p99_ms, most_probes=probes, timing=timing)
    check_writable(json_file)
    manifest, base = manifest_from_folder(export), base_options(repository)
    words = ["alexnet", "bench", "tune", str(export), "--limit-p99-ms", f"{limit_p99_ms:g}"]
    words += ["--probes", str(probes), "--seconds", f"{seconds:g}"]
    with Bars() as bars:
        report = bench_tuning(manifest, export, options, base, command=shlex.join(words), progress=bars)
    print_tables(report)
    winner = winner_of(report, base)
    end_with(report, json_file, measured=winner is not None)
    if repository is not None and winner is not None:
        write_winner(manifest, export, repository, winner)
        note(f"Written: {repository}. Next: alexnet serve --repository {shlex.quote(str(repository))}")
