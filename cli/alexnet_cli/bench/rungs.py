"""`alexnet bench rungs`: where the time goes between the engine and the encoded picture."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from alexnet_model.errors import UsageError


def rungs_command(
    export: Annotated[Path, typer.Argument(help="The folder of an export.", metavar="EXPORT")],
    repository: Annotated[
        Path, typer.Option("--repository", help="The repository that was written from it.")
    ] = Path("model_repository"),
    batch: Annotated[str, typer.Option(help="Pictures a request, such as 1,8.")] = "1,8",
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Of each way of asking, in turn.")] = 5,
    requests: Annotated[int, typer.Option(min=1, max=10_000, help="Of each way in a round.")] = 20,
    output: Annotated[Path | None, typer.Option("--json", help="Write the report there.")] = None,
) -> None:
    """Measure engine, Triton, queue, gRPC, HTTP, shared memory and JPEG on an embedded server, one at a time.

    Example: alexnet bench rungs demo/export --repository demo/model_repository --batch 1,8
    """
    from alexnet_bench.control import CONTROL_UNIT, control_rate
    from alexnet_bench.environment import environment_here
    from alexnet_bench.figures.verdicts import control_reason
    from alexnet_bench.reports.files import write_report
    from alexnet_bench.reports.schema import Report
    from alexnet_bench.reports.tables import renderables_from_report
    from alexnet_bench.rungs import RungOptions, rungs
    from alexnet_model.manifest import manifest_from_folder
    from alexnet_serving import EmbeddedServer

    from ..screen import Bars, err, out
    from .server import check_writable

    options = RungOptions(batches=_batches(batch), rounds=rounds, requests=requests)
    if output is not None:
        check_writable(output)
    words = [str(export), "--repository", str(repository), "--batch", batch]
    words += ["--rounds", str(rounds), "--requests", str(requests)]
    manifest = manifest_from_folder(export)
    server = EmbeddedServer(repository, shared_memory=True)
    started, before = time.perf_counter(), control_rate()
    with err.status("Starting Triton ..."):
        server.__enter__()
    try:
        with Bars() as bars:
            found = rungs(
                manifest,
                export,
                grpc_url=server.grpc_url,
                http_url=server.http_url,
                options=options,
                progress=bars,
            )
    finally:
        server.stop()
    after = control_rate()
    reason = control_reason(before, after, CONTROL_UNIT)
    report = Report(
        title="From the engine to the encoded picture",
        command=shlex.join(["alexnet", "bench", "rungs", *words]),
        environment=environment_here(),
        seconds=time.perf_counter() - started,
        control_before=before,
        control_after=after,
        rungs=found,
        reasons=(reason,) if reason else (),
    )
    if output is not None:
        write_report(output, report)
    for renderable in renderables_from_report(report):
        out.print(renderable)


def _batches(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise UsageError("--batch", got=repr(text), expected="numbers such as 1,8") from error
