"""`alexnet bench server`: throughput and latency of a server under load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_model.errors import UsageError

from ..connecting import (
    DEFAULT_URL,
    CaOption,
    CertOption,
    Connection,
    HeaderOption,
    KeyOption,
    TimeoutOption,
    UrlOption,
)
from ..options import NameOption
from .reporting import (
    JsonFlag,
    OutputOption,
    check_output,
    finish,
    print_tables,
    recorded_command,
    whole_numbers,
)

if TYPE_CHECKING:
    from alexnet_bench import ClosedLoop, OpenLoop, ReferenceSource, Report

_DEFAULT_CONCURRENCY = "1,16"


def server_command(
    context: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A model on the server; may be repeated.",
            metavar="NAME",
            show_default="the only export's, in its default precision",
        ),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    concurrency: Annotated[
        str | None,
        typer.Option(
            help="Closed loops: numbers of requests in flight.",
            metavar="N,...",
            show_default=f"{_DEFAULT_CONCURRENCY} unless --rate or --limit-p99-ms is given",
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Images per request.", metavar="N,...")] = "1",
    rate: Annotated[
        str | None,
        typer.Option(
            help="Open loops: requests per second at random times (Poisson arrivals).", metavar="R,..."
        ),
    ] = None,
    limit_p99_ms: Annotated[
        float | None,
        typer.Option(
            "--limit-p99-ms",
            help="Find the highest rate whose p99 latency is within this limit.",
            metavar="MS",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Seconds per repeat.")] = 3.0,
    repeats: Annotated[int, typer.Option(help="Repeats of each load, in alternating order.")] = 5,
    burn_in_s: Annotated[
        float, typer.Option("--burn-in", help="Seconds of load before each repeat that are not measured.")
    ] = 0.5,
    workers: Annotated[int, typer.Option(help="Processes that generate the load.")] = 1,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            help="Shape of an input with dynamic dimensions, without the batch; may be repeated.",
            metavar="NAME:1,2,3",
        ),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(
            "--repository",
            help="The served repository: compare the server's outputs with those of its export in process.",
            metavar="FOLDER",
        ),
    ] = None,
    name: NameOption = None,
    as_json: JsonFlag = False,
    output: OutputOption = None,
    timeout_s: TimeoutOption = 30,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    header: HeaderOption = None,
) -> None:
    """Measure a server under load, with a verdict on each figure.

    Works with any server that speaks KServe v2. Where a verdict is INVALID, the
    report gives the reason and what to do. Exits with 1 if a load could not be
    measured at all, or if the server stopped before the end.

    Example: alexnet bench server --model alexnet_int8 --output build/server.json
    """
    from alexnet_bench import LoadPlan, SearchOptions, Timing, bench_load, open_server_bench
    from alexnet_clients import choose_model

    from ..screen import Bars

    if name is not None and repository is None:
        raise UsageError("--name", got="no --repository that it is in", expected="--repository FOLDER too")
    batches = whole_numbers("--batch", batch)
    loops = _loops(concurrency, rate, is_needed=limit_p99_ms is None)
    limit = None if limit_p99_ms is None else SearchOptions(limit_p99_ms=limit_p99_ms)
    timing = Timing(burn_in_s=burn_in_s, seconds=seconds, repeats=repeats)
    shapes = dict(_shape(text) for text in shape or [])
    connection = Connection(url=url, timeout_s=timeout_s, ca=ca, cert=cert, key=key, headers=header)
    check_output(output)
    if not model:
        with connection.client() as client:
            model = [choose_model(client, name=name).name]
    plan = LoadPlan(models=tuple(dict.fromkeys(model)), batches=batches, loops=loops, limit=limit)
    with ExitStack() as opened:
        reference = None if repository is None else opened.enter_context(_reference_from(repository, name))
        bench = opened.enter_context(
            open_server_bench(
                url,
                processes=workers,
                credentials=connection.credentials(),
                timing=timing,
                timeout_s=timeout_s,
                shapes=shapes,
                reference=reference,
            )
        )
        progress = opened.enter_context(Bars())
        report = bench_load(
            plan,
            bench,
            title=f"Under load: {', '.join(plan.models)}",
            command=recorded_command(context),
            progress=progress,
        )
    gone = any(reason.rule == "server gone" for reason in report.reasons)
    measured = not report.left_out and not gone
    finish(report, as_json=as_json, output=output, measured=measured, show=print_loads)


def print_loads(report: Report) -> None:
    """Print the tables with their verdicts, then whether the server batched requests."""
    from alexnet_bench.reports.names import load_in_words, name_of_series

    from ..screen import say

    print_tables(report)
    for row in report.loads:
        say(f"batching: {name_of_series(row)}, {load_in_words(row)}: {row.batching}")


@contextmanager
def _reference_from(repository: Path, name: str | None) -> Iterator[ReferenceSource]:
    from alexnet_bench import ExportPredictions
    from alexnet_model.manifest import manifest_from_folder
    from alexnet_pipeline import unpacked_export

    with unpacked_export(repository, name) as folder:
        yield ExportPredictions(manifest_from_folder(folder), folder)


def _loops(
    concurrency: str | None, rate: str | None, *, is_needed: bool
) -> tuple[ClosedLoop | OpenLoop, ...]:
    from alexnet_bench import ClosedLoop, OpenLoop

    if concurrency is None and rate is None and is_needed:
        concurrency = _DEFAULT_CONCURRENCY
    closed = () if concurrency is None else whole_numbers("--concurrency", concurrency)
    rates = () if rate is None else _numbers("--rate", rate)
    return (
        *(ClosedLoop(concurrency=at_a_time) for at_a_time in closed),
        *(OpenLoop(rate_per_s=per_s) for per_s in rates),
    )


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(dict.fromkeys(float(word) for word in text.split(",")))
    except ValueError as error:
        raise UsageError(option, got=repr(text), expected="numbers, such as 50,100") from error


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, colon, sizes = text.rpartition(":")
    if not colon or not name:
        raise UsageError("--shape", got=repr(text), expected="NAME:1,2,3")
    return name, whole_numbers("--shape", sizes)
