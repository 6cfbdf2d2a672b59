"""`alexnet bench engine`: every engine of this machine at every batch, against the limits of its device."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from alexnet_model.errors import UsageError

from ..options import precisions_from
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
    from alexnet_bench.engines.specs import RuntimeName
    from alexnet_bench.schema import Report


class Device(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


def engine_command(
    context: typer.Context,
    export: Annotated[Path, typer.Argument(help="An export's folder, with its export.json.")],
    batch: Annotated[
        str | None,
        typer.Option(
            help="Images a call.", metavar="N,...", show_default="1, 2, 4 ... to the export's largest"
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Some of fp32,fp16,int8.", show_default="all that were accepted")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Some of pytorch, torch.compile, onnxruntime, openvino, tensorrt, tensorrt-rtx.",
            show_default="all that are here",
        ),
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="Measure on this alone.", show_default="all that are here")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="What the export was made from, to measure PyTorch too.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Of one slice.")] = 0.5,
    repeats: Annotated[int, typer.Option(help="Slices of each engine and batch, in turn.")] = 5,
    judge: Annotated[
        bool, typer.Option("--judge/--no-judge", help="Ask every engine whether it is still the model.")
    ] = True,
    as_json: JsonFlag = False,
    output: OutputOption = None,
) -> None:
    """Measure every engine that this machine has of an export, against its limit.

    Each engine has a process of its own, and is judged by the export's gate in
    the end: one that answers wrongly, or cannot be judged, has INVALID rows.
    What is not here is left out, with the reason. Ctrl-C keeps the rows that
    are done.

    Example: alexnet bench engine build/export --checkpoint checkpoint.safetensors
    """
    from alexnet_bench.engines.discovery import EngineFilter
    from alexnet_bench.engines.running import EngineBench, bench_engines

    from ..screen import Bars

    bench = EngineBench(
        engine_filter=EngineFilter(
            precisions=precisions_from(precision),
            runtimes=_runtimes_from(runtime),
            checkpoint=checkpoint,
            device=None if device is None else device.value,
        ),
        batches=None if batch is None else whole_numbers("--batch", batch),
        seconds=seconds,
        repeats=repeats,
        judge=judge,
    )
    check_output(output)
    with Bars() as bars:
        report = bench_engines(export, bench, command=recorded_command(context), progress=bars)
    finish(report, as_json=as_json, output=output, measured=bool(report.engines), show=print_engines)


def print_engines(report: Report) -> None:
    """By device: side by side, and what each engine takes; then each engine's rows, and the verdict."""
    from ..screen import out, say
    from .engine_tables import LIMITS_IN_WORDS, costs_table, side_by_side_table

    for device in dict.fromkeys(row.engine.device for row in report.engines):
        rows = [row for row in report.engines if row.engine.device == device]
        out.rule(f"Engines on {device}", align="left")
        say("Images a second by batch:")
        out.print(side_by_side_table(rows))
        say("What each takes:")
        out.print(costs_table(rows))
    if report.engines:
        out.print(LIMITS_IN_WORDS, markup=False)
    print_tables(report)


def _runtimes_from(text: str | None) -> tuple[RuntimeName, ...] | None:
    """`Wishes` refuses unknown ones."""
    if text is None:
        return None
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError("--runtime", got=repr(text), expected="at least one name")
    return tuple(cast("RuntimeName", word) for word in dict.fromkeys(words))
