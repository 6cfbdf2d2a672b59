"""`alexnet tune`: find the repository options that hold the highest rate within a latency limit."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .bench.reporting import (
    JsonFlag,
    OutputOption,
    check_output,
    finish,
    print_tables,
    recorded_command,
)
from .options import DEFAULT_REPOSITORY, NameOption, RepositoryOption
from .serve import ServerKind, kind_of_server

if TYPE_CHECKING:
    from alexnet_bench import Report


def tune_command(
    context: typer.Context,
    limit_p99_ms: Annotated[
        float, typer.Option("--limit-p99-ms", help="Limit of the p99 latency.", metavar="MS")
    ],
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    name: NameOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure, but do not change the repository.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write the best options even if the run is INVALID.")
    ] = False,
    minutes: Annotated[
        float, typer.Option(min=0.1, max=600, help="Time for all configurations.", metavar="MINUTES")
    ] = 3,
    kind: Annotated[
        ServerKind | None,
        typer.Option(
            "--with",
            help="The server to measure with, as for serve.",
            show_default="docker if a GPU can be used, else embedded",
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(help="With docker: the image to run.", show_default="pinned, chosen by the models"),
    ] = None,
    probes: Annotated[
        int, typer.Option(min=2, max=20, help="Largest number of rates to try per configuration.")
    ] = 4,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds per load; longer if p99 needs more requests.")
    ] = 2,
    as_json: JsonFlag = False,
    output: OutputOption = None,
) -> None:
    """Find the repository options with the highest rate within a latency limit.

    Each configuration is served by a server of its own, embedded or in Docker, on free ports; one option is
    changed at a time. The best options are printed, and written to the repository: a server that is
    running has to be started again. If the machine was busy, the result is printed with the label INVALID
    and the reasons, and is written only with --force. Exits with 1 if nothing is written.

    Example: alexnet tune --limit-p99-ms 50 --repository model_repository
    """
    from alexnet_bench import Timing, TuningOptions, bench_tuning, winner_of, write_winner
    from alexnet_model.docker import known_release_of_image
    from alexnet_model.triton_image import TRITON_IMAGE
    from alexnet_pipeline import unpacked_export
    from alexnet_serving import DockerServer, EmbeddedServer, Server, lint, packed_export, raise_if_findings

    from .screen import Bars, in_megabytes, note, say

    timing = Timing(burn_in_s=0.5, seconds=seconds, repeats=1)
    options = TuningOptions(
        limit_p99_ms=limit_p99_ms, most_probes=probes, budget_s=60 * minutes, timing=timing
    )
    check_output(output)
    kind = kind_of_server(kind, repository, {"--image": image}, doing="Measuring")

    def open_server(folder: Path) -> Server:
        return DockerServer(folder, image=image) if kind is ServerKind.DOCKER else EmbeddedServer(folder)

    open_server(repository)  # raises if it cannot serve the repository
    with Bars() as bars:  # manual changes would be lost
        findings = lint(
            repository,
            triton_release=known_release_of_image(image) if image else None,
            progress=in_megabytes(bars),
        )
    raise_if_findings(repository, findings, image=image or TRITON_IMAGE)
    packed = packed_export(repository, name)
    manifest, base = packed.manifest, packed.options
    with ExitStack() as opened:
        folder = opened.enter_context(unpacked_export(repository, name))
        with Bars() as bars:
            report = bench_tuning(
                manifest,
                folder,
                options,
                base,
                open_server=open_server,
                command=recorded_command(context),
                progress=bars,
            )
        winner = winner_of(report, base)
        against = _against_writing(report, force=force)

        def show(report: Report) -> None:
            print_tables(report)
            if best := _best(report):
                say(best)

        finish(
            report,
            as_json=as_json,
            output=output,
            measured=winner is not None and (dry_run or not against),
            show=show,
            message=f"{repository} was not changed{against}." if dry_run or against else "",
        )
        if winner is not None and not dry_run:
            write_winner(manifest, folder, repository, winner)
            note(f"Written: {repository}. Next: alexnet serve --repository {shlex.quote(str(repository))}")


def _best(report: Report) -> str:
    """Describe the winner in a line, with its verdict; empty if there is none."""
    tuning = report.tuning
    if tuning is None or tuning.winner is None:
        return ""
    step = tuning.steps[tuning.winner]
    instances = f"{step.instances} instance{'' if step.instances == 1 else 's'}"
    verdict = report.verdict.word
    doubts = ", ".join(reason.rule for reason in report.reasons)
    return (
        f"Best: {step.precision}, {instances}, queue delay {step.queue_delay_us} us, batches to "
        f"{step.max_batch}: {step.held_rate_per_s:.4g} images/s within {tuning.limit_p99_ms:g} ms on "
        f"{tuning.device} ({verdict}{f': {doubts}' if doubts else ''})"
    )


def _against_writing(report: Report, *, force: bool) -> str:
    """Say why the winner is not written; empty if it is."""
    if report.tuning is None or report.tuning.winner is None:
        if report.verdict.is_valid:
            return (
                ": no configuration met the limit. Next: raise --limit-p99-ms, or fix what the steps report"
            )
    elif report.verdict.is_valid or force:
        return ""
    rules = ", ".join(reason.rule for reason in report.reasons)
    anyway = "" if report.tuning is None or report.tuning.winner is None else ", or write it with --force"
    return f": the run is INVALID ({rules}). Next: measure again{anyway}"
