"""`alexnet tune`: find the repository options that hold the highest rate within a latency limit."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .bench.reporting import JsonFlag, OutputOption, check_output, finish, recorded_command
from .options import NameOption, RepositoryOption

if TYPE_CHECKING:
    from alexnet_bench import Report


def tune_command(
    context: typer.Context,
    limit_p99_ms: Annotated[
        float, typer.Option("--limit-p99-ms", help="Limit of the p99 latency.", metavar="MS")
    ],
    repository: RepositoryOption = Path("model_repository"),
    name: NameOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure, but do not change the repository.")
    ] = False,
    probes: Annotated[
        int, typer.Option(min=2, max=20, help="Largest number of rates to try per configuration.")
    ] = 5,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds per load; longer if p99 needs more requests.")
    ] = 2,
    as_json: JsonFlag = False,
    output: OutputOption = None,
) -> None:
    """Find the repository options with the highest rate within a latency limit.

    Each configuration is served by an embedded server; one option is changed at
    a time. The best options are written to the repository. Exits with 1 and
    writes nothing if no rate meets the limit or the run is INVALID.

    Example: alexnet tune --limit-p99-ms 50 --repository model_repository
    """
    from alexnet_bench import Timing, TuningOptions, bench_tuning, winner_of, write_winner
    from alexnet_pipeline import unpacked_export
    from alexnet_serving import EmbeddedServer, lint, packed_export, raise_if_findings

    from .screen import Bars, in_megabytes, note

    timing = Timing(burn_in_s=0.5, seconds=seconds, repeats=1)
    options = TuningOptions(limit_p99_ms=limit_p99_ms, most_probes=probes, timing=timing)
    check_output(output)
    EmbeddedServer(repository)  # raises if it cannot serve the repository
    with Bars() as bars:  # manual changes would be lost
        raise_if_findings(repository, lint(repository, progress=in_megabytes(bars)))
    packed = packed_export(repository, name)
    manifest, base = packed.manifest, packed.options
    with ExitStack() as opened:
        folder = opened.enter_context(unpacked_export(repository, name))
        with Bars() as bars:
            report = bench_tuning(
                manifest, folder, options, base, command=recorded_command(context), progress=bars
            )
        winner = winner_of(report, base)
        against = _against_writing(report)
        finish(
            report,
            as_json=as_json,
            output=output,
            measured=winner is not None and (dry_run or not against),
            message=f"{repository} was not changed{against}." if dry_run or against else "",
        )
        if winner is not None and not dry_run:
            write_winner(manifest, folder, repository, winner)
            note(f"Written: {repository}. Next: alexnet serve --repository {shlex.quote(str(repository))}")


def _against_writing(report: Report) -> str:
    """Say why the winner is not written; empty if it is."""
    if not report.verdict.is_valid:
        rules = ", ".join(reason.rule for reason in report.reasons)
        return f": the run is INVALID ({rules}). Next: measure again"
    if report.tuning is None or report.tuning.winner is None:
        return ": no configuration met the limit. Next: raise --limit-p99-ms, or fix what the steps report"
    return ""
