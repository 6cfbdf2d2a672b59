"""`alexnet bench breakdown`: where the time of a request goes, from the engine to the encoded image."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from ..options import DEFAULT_REPOSITORY, NameOption, RepositoryOption
from .reporting import JsonFlag, OutputOption, check_output, finish, recorded_command, whole_numbers


def breakdown_command(
    context: typer.Context,
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    name: NameOption = None,
    batch: Annotated[str, typer.Option(help="Images per request.", metavar="N,...")] = "1,8",
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds; each measures every step.")] = 5,
    requests: Annotated[int, typer.Option(min=1, max=10_000, help="Requests per step in a round.")] = 20,
    as_json: JsonFlag = False,
    output: OutputOption = None,
) -> None:
    """Measure what each step adds to the latency of one request.

    The steps are the engine in process, Triton, its queue, gRPC, HTTP, shared
    memory and JPEG images, on an embedded server, one request at a time.

    Example: alexnet bench breakdown --repository model_repository
    """
    from alexnet_bench import BreakdownOptions, bench_latency_breakdown
    from alexnet_model.manifest import manifest_from_folder
    from alexnet_pipeline import unpacked_export
    from alexnet_serving import EmbeddedServer

    from ..screen import Bars, err

    options = BreakdownOptions(batches=whole_numbers("--batch", batch), rounds=rounds, requests=requests)
    check_output(output)
    server = EmbeddedServer(repository, shared_memory=True)
    with ExitStack() as opened:
        folder = opened.enter_context(unpacked_export(repository, name))
        manifest = manifest_from_folder(folder)
        options.check_fits(manifest)  # before a server is started for it
        with err.status("Starting Triton ..."):
            opened.enter_context(server)
        bars = opened.enter_context(Bars())
        report = bench_latency_breakdown(
            manifest,
            folder,
            grpc_url=server.grpc_url,
            http_url=server.http_url,
            options=options,
            command=recorded_command(context),
            progress=bars,
        )
    finish(report, as_json=as_json, output=output, measured=bool(report.breakdown))
