"""`alexnet bench tune`: how to serve an export so that it holds the most within a limit."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer


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
    output: Annotated[Path | None, typer.Option("--json", help="Write the report there.")] = None,
) -> None:
    """Try configurations on an embedded server, one change at a time, and say why the winner won.

    Example: alexnet bench tune demo/export --limit-p99-ms 50 --repository demo/model_repository
    """
    from alexnet_bench.control import CONTROL_UNIT, control_rate
    from alexnet_bench.environment import environment_here
    from alexnet_bench.figures.verdicts import control_reason
    from alexnet_bench.loads.plans import Timing
    from alexnet_bench.reports.files import write_report
    from alexnet_bench.reports.schema import Report
    from alexnet_bench.reports.tables import renderables_from_report
    from alexnet_bench.tuning import TuningOptions, tune, write_winner
    from alexnet_model.manifest import manifest_from_folder

    from ..screen import Bars, note, out
    from .server import check_writable

    options = TuningOptions(
        limit_p99_ms=limit_p99_ms,
        most_probes=probes,
        timing=Timing(burn_in_s=0.5, seconds=seconds, repeats=1),
    )
    if output is not None:
        check_writable(output)
    words = [str(export), "--limit-p99-ms", f"{limit_p99_ms:g}"]
    words += ["--probes", str(probes), "--seconds", f"{seconds:g}"]
    manifest = manifest_from_folder(export)
    started, before = time.perf_counter(), control_rate()
    with Bars() as bars:
        tuning, winner = tune(manifest, export, options, progress=bars)
    after = control_rate()
    reason = control_reason(before, after, CONTROL_UNIT)
    report = Report(
        title=f"Tuning within {limit_p99_ms:g} ms",
        command=shlex.join(["alexnet", "bench", "tune", *words]),
        environment=environment_here(),
        seconds=time.perf_counter() - started,
        control_before=before,
        control_after=after,
        tuning=tuning,
        reasons=(reason,) if reason else (),
    )
    if output is not None:
        write_report(output, report)
    for renderable in renderables_from_report(report):
        out.print(renderable)
    if winner is None:
        raise typer.Exit(1)
    if repository is not None:
        write_winner(manifest, export, repository, winner)
        note(f"Written: {repository}. Next: alexnet serve --repository {repository}")
